"""Rows of one gallery's store inside a transaction: typed gets and puts. Knows nothing of threads.

::

    meta        "state", "contract", "settings", "created"; each sealed but the last
    identities  identity_id -> IdentityRecord
    numbers     identity number -> identity_id, sealed
    templates   template id -> TemplateRecord
    crops       template id -> kept crop, sealed; only of templates that have one
    journal     sequence -> Journal
    receipts    key -> ReceiptRecord
    ages        (create ms, receipt key) -> nothing
    expiries    (expire ms, identity number) -> nothing
    attributes  digest of an attribute's name and value -> numbers of the identities that have it
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptDataError, StorageFullError
from engine.store import records
from engine.store.records import IdentityRecord, Journal, ReceiptRecord, State, TemplateRecord
from engine.types import EmbeddingContract, GallerySettings, Vectors

TABLES = (
    "meta",
    "identities",
    "numbers",
    "templates",
    "journal",
    "receipts",
    "ages",
    "expiries",
    "attributes",
    "crops",
)
SEVERAL_VALUES = frozenset({"attributes"})
"""Tables with many values of one size under a key, in order."""
PAGES_RESERVED_MIN = 64
SHARE_RESERVED = 1 / 16
"""Share of a store's largest size that only removals may use, and the fewest pages."""
_NUMBER_BYTES = 8
_HAVING = np.dtype([("key", f"S{records.ATTRIBUTE_KEY_BYTES}"), ("number", ">u8")])
_FULL_HINT = "Remove identities, or start the server with a larger galleries.store.map_size_bytes_max."
Tables = dict[str, Any]
T = TypeVar("T")


def open_tables(environment: lmdb.Environment) -> Tables:
    """Open or make the tables, in one transaction: one wait for the write lock, and one sync where made."""
    tables = {}
    # Not a read transaction, which lmdb resets instead of committing: the handles would be lost.
    with environment.begin(write=True) as transaction:
        for name in TABLES:
            has_several = name in SEVERAL_VALUES
            tables[name] = environment.open_db(
                name.encode(), transaction, dupsort=has_several, dupfixed=has_several
            )
    return tables


def upgrade(environment: lmdb.Environment, tables: Tables) -> None:
    """Bring a store that an older version wrote to this version's format, in one transaction.

    Raises NewerFormatError, CorruptDataError, and lmdb's errors.
    """
    with environment.begin() as transaction:
        if Reader(transaction, tables).format() >= records.FORMAT_LEAST:
            return
    with environment.begin(write=True) as transaction:
        writer = Writer(transaction, tables)
        # Once more, now that no other process can write: it may have done the work.
        if writer.format() < records.FORMAT_LEAST:
            writer.upgrade()


class Reader:
    """A consistent view of one store, inside an open LMDB transaction."""

    def __init__(self, transaction: lmdb.Transaction[bytes], tables: Tables):
        self._transaction = transaction
        self._tables = tables
        self._state: State | None = None

    def _get(self, table: str, key: bytes) -> bytes | None:
        # LMDB refuses empty keys: nothing is stored under one.
        return self._transaction.get(key, db=self._tables[table]) if key else None

    def _need(self, table: str, key: bytes) -> bytes:
        value = self._get(table, key)
        if value is None:
            raise CorruptDataError(f"the store has no row {key!r} in table {table}")
        return value

    def state(self) -> State:
        """Counters. Raises CorruptDataError, NewerFormatError."""
        # A search asks several times.
        if self._state is None:
            self._state = records.unpack_state(self._need("meta", b"state"))
        return self._state

    def format(self) -> int:
        """Format that the store was last written in. Raises CorruptDataError."""
        return records.state_format(self._need("meta", b"state"))

    def contract(self) -> EmbeddingContract:
        """The embedding contract that the gallery is bound to."""
        return records.unpack(self._need("meta", b"contract"), EmbeddingContract)

    def settings(self) -> GallerySettings:
        """The gallery's settings."""
        return records.unpack_settings(self._need("meta", b"settings"))

    def create_time(self) -> float:
        """Unix time, seconds."""
        return records.number(self._need("meta", b"created")) / 1e3

    def identity(self, identity_id: str) -> IdentityRecord | None:
        """One identity, or None."""
        data = self._get("identities", identity_id.encode())
        return None if data is None else records.unpack(data, IdentityRecord)

    def identity_id(self, identity_number: int) -> str | None:
        """Id of an identity, or None where it was removed."""
        data = self._get("numbers", records.key(identity_number))
        return None if data is None else records.unpack(data, str)

    def identity_ids(self, identity_numbers: Iterable[int]) -> dict[int, str | None]:
        """As `identity_id`, for many."""
        number_of = {records.key(number): number for number in identity_numbers}
        found: dict[int, str | None] = dict.fromkeys(number_of.values())
        with self._transaction.cursor(self._tables["numbers"]) as cursor:
            for key, data in cursor.getmulti(list(number_of)):
                found[number_of[key]] = records.unpack(data, str)
        return found

    def template(self, template_id: int) -> TemplateRecord | None:
        """One template, or None where it was removed."""
        data = self._get("templates", records.key(template_id))
        return None if data is None else records.unpack_template(data)

    def crop(self, template_id: int) -> bytes:
        """The kept crop of a template, empty where it has none. Raises CorruptDataError."""
        data = self._get("crops", records.key(template_id))
        return b"" if data is None else records.unpack_crop(data)

    def vectors(self, template_ids: Sequence[int], dimension: int) -> tuple[Vectors, list[int]]:
        """Vectors float32[n, d] of these templates, and the rows of those removed, which hold zeros."""
        keys = [records.key(template_id) for template_id in template_ids]
        there = dict(self.template_rows_of(keys))
        nothing = bytes(4 * dimension)
        missing = [row for row, key in enumerate(keys) if key not in there]
        found = [records.vector_bytes(there[key], dimension) if key in there else nothing for key in keys]
        joined = np.frombuffer(b"".join(found), "<f4")
        return joined.reshape(len(template_ids), dimension), missing

    def templates(self) -> Iterator[tuple[int, TemplateRecord]]:
        """All templates in order of their ids."""
        with self._transaction.cursor(self._tables["templates"]) as cursor:
            for key, value in cursor:
                yield records.number(key), records.unpack_template(value)

    @contextlib.contextmanager
    def template_rows(self) -> Iterator[Iterator[tuple[bytes, bytes]]]:
        """Keys and bytes of all templates in order of their ids; see `columns`."""
        with self._transaction.cursor(self._tables["templates"]) as cursor:
            yield iter(cursor)

    def template_rows_of(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Those of these rows that are there, in the order of `keys`."""
        with self._transaction.cursor(self._tables["templates"]) as cursor:
            return list(cursor.getmulti(keys))

    def identities(self, after: str) -> Iterator[tuple[str, IdentityRecord]]:
        """Identities with ids greater than `after`, in order of the bytes of their ids."""
        start = after.encode()
        with self._transaction.cursor(self._tables["identities"]) as cursor:
            is_there = cursor.set_range(start) if start else cursor.first()
            if is_there and start and cursor.key() == start:
                is_there = cursor.next()
            while is_there:
                yield cursor.key().decode(), records.unpack(cursor.value(), IdentityRecord)
                is_there = cursor.next()

    def journal(self, first: int, last: int) -> Iterator[Journal]:
        """Journal rows of sequences first..last. Raises CorruptDataError where one is missing."""
        for sequence in range(first, last + 1):
            yield records.unpack(self._need("journal", records.key(sequence)), Journal)

    def receipt(self, key: bytes) -> ReceiptRecord | None:
        """The receipt under this key, or None."""
        data = self._get("receipts", key)
        return None if data is None else records.unpack(data, ReceiptRecord)

    def num_having(self, name: str, value: str) -> int:
        """Number of identities with this attribute, whose time is over or not. Reads one page."""
        with self._transaction.cursor(self._tables["attributes"]) as cursor:
            return cursor.count() if cursor.set_key(records.attribute_key(name, value)) else 0

    def having(self, name: str, value: str) -> NDArray[np.uint64]:
        """Numbers of the identities with this attribute, ascending: uint64[n]."""
        key = records.attribute_key(name, value)
        with self._transaction.cursor(self._tables["attributes"]) as cursor:
            data = cursor.getmulti([key], dupdata=True, dupfixed_bytes=_NUMBER_BYTES, keyfixed=True)
        return np.frombuffer(data, _HAVING)["number"].astype(np.uint64)

    def has_all(self, identity_number: int, attributes: Iterable[tuple[str, str]]) -> bool:
        """Whether an identity has all of these attributes, as names and values."""
        number = records.key(identity_number)
        with self._transaction.cursor(self._tables["attributes"]) as cursor:
            return all(
                cursor.set_key_dup(records.attribute_key(name, value), number) for name, value in attributes
            )

    def expired(self, now_ms: int, limit: int) -> list[int]:
        """Numbers of at most `limit` identities whose time is over."""
        found: list[int] = []
        with self._transaction.cursor(self._tables["expiries"]) as cursor:
            for key, _ in cursor:
                if len(found) == limit or records.number(key[:8]) > now_ms:
                    break
                found.append(records.number(key[8:]))
        return found


class Writer(Reader):
    """A view that can be changed; all or nothing of it is committed."""

    def __init__(self, transaction: lmdb.Transaction[bytes], tables: Tables, size_bytes_max: int = 1 << 62):
        super().__init__(transaction, tables)
        self._size_bytes_max = size_bytes_max
        self.num_changes = 0

    def need_room(self) -> None:
        """Raise StorageFullError where all but what removals need is in use.

        LMDB copies every page that a write touches: in a map that is full to the last page not even a removal
        can be made.
        """
        stats = [self._transaction.stat(table) for table in self._tables.values()]
        num_pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        page_bytes = stats[0]["psize"]
        reserve_bytes = max(PAGES_RESERVED_MIN * page_bytes, int(SHARE_RESERVED * self._size_bytes_max))
        if num_pages * page_bytes + reserve_bytes > self._size_bytes_max:
            raise StorageFullError("the store has reached its largest size", hint=_FULL_HINT)

    def _put(self, table: str, key: bytes, value: bytes, *, append: bool = False) -> None:
        self.num_changes += 1
        if not self._transaction.put(key, value, append=append, db=self._tables[table]):
            # Numbers only ever grow: one that is not the greatest was counted by a state that lost writes.
            raise CorruptDataError(f"row {key!r} of table {table} is not behind all others")

    def _delete(self, table: str, key: bytes) -> None:
        self.num_changes += 1
        self._transaction.delete(key, db=self._tables[table])

    def state(self) -> State:
        """As it is now: this transaction changes it, and what fails is taken back."""
        return records.unpack_state(self._need("meta", b"state"))

    def put_state(self, state: State) -> None:
        """Write the counters."""
        self._put("meta", b"state", records.pack_state(state))

    def put_contract(self, contract: EmbeddingContract) -> None:
        """Bind the gallery to a contract; once, at its creation."""
        self._put("meta", b"contract", records.pack(contract))

    def put_settings(self, settings: GallerySettings) -> None:
        """Write the gallery's settings."""
        self._put("meta", b"settings", records.pack(settings))

    def put_create_time(self, create_ms: int) -> None:
        """Write when the gallery was made."""
        self._put("meta", b"created", records.key(create_ms))

    def put_identity(self, identity_id: str, record: IdentityRecord, previous: IdentityRecord | None) -> None:
        """Write an identity over `previous`, None if it is new."""
        if previous is None:
            self._put("numbers", records.key(record.number), records.pack(identity_id), append=True)
        if previous is not None and previous.expire_ms and previous.expire_ms != record.expire_ms:
            self._delete("expiries", _expiry(previous))
        if record.expire_ms and (previous is None or previous.expire_ms != record.expire_ms):
            self._put("expiries", _expiry(record), b"")
        self._put("identities", identity_id.encode(), records.pack(record))
        self._put_attributes(
            record.number, record.attributes, {} if previous is None else previous.attributes
        )

    def delete_identity(self, identity_id: str, record: IdentityRecord) -> None:
        """Forget an identity; its templates are the caller's to delete."""
        self._delete("identities", identity_id.encode())
        self._delete("numbers", records.key(record.number))
        if record.expire_ms:
            self._delete("expiries", _expiry(record))
        self._put_attributes(record.number, {}, record.attributes)

    def _put_attributes(
        self, identity_number: int, attributes: Mapping[str, str], previous: Mapping[str, str]
    ) -> None:
        number, table = records.key(identity_number), self._tables["attributes"]
        for name, value in previous.items():
            if attributes.get(name) != value:
                self.num_changes += 1
                self._transaction.delete(records.attribute_key(name, value), number, db=table)
        for name, value in attributes.items():
            if previous.get(name) != value:
                self.num_changes += 1
                self._transaction.put(records.attribute_key(name, value), number, db=table)

    def upgrade(self) -> None:
        """Write what an older format lacks."""
        state = self.state()
        items = [
            (records.attribute_key(name, value), records.key(record.number))
            for _, record in self.identities("")
            for name, value in record.attributes.items()
        ]
        # In order of the keys each page is written once.
        items.sort()
        with self._transaction.cursor(self._tables["attributes"]) as cursor:
            cursor.putmulti(items, dupdata=True)
        self.put_state(state)

    def put_template(self, template_id: int, record: TemplateRecord) -> None:
        """Write a new template; ids only ever grow, so it is appended."""
        self._put("templates", records.key(template_id), records.pack_template(record), append=True)

    def put_crop(self, template_id: int, crop: bytes) -> None:
        """Keep the crop of a template."""
        self._put("crops", records.key(template_id), records.pack_crop(crop))

    def delete_template(self, template_id: int) -> None:
        """Forget a template, and its crop where one is kept."""
        self._delete("templates", records.key(template_id))
        self._delete("crops", records.key(template_id))

    def put_journal(self, sequence: int, row: Journal) -> None:
        """Write what a sequence changed."""
        self._put("journal", records.key(sequence), records.pack(row), append=True)

    def trim_journal(self, last: int) -> None:
        """Forget the rows of sequences up to `last`."""
        self.num_changes += 1
        with self._transaction.cursor(self._tables["journal"]) as cursor:
            cursor.first()
            while (key := cursor.key()) and records.number(key) <= last:
                cursor.delete()

    def put_receipt(self, key: bytes, record: ReceiptRecord, oldest_ms: int, trim_max: int = 64) -> None:
        """Keep an answer for its retries, and forget some that are older than `oldest_ms`."""
        if (previous := self.receipt(key)) is not None:
            # Too old to count, but its age would one day take the new answer with it.
            self._delete("ages", records.key(previous.create_ms) + key)
        with self._transaction.cursor(self._tables["ages"]) as cursor:
            cursor.first()
            while trim_max > 0 and (age := cursor.key()) and records.number(age[:8]) < oldest_ms:
                self._delete("receipts", age[8:])
                cursor.delete()
                trim_max -= 1
        self._put("receipts", key, records.pack(record))
        self._put("ages", records.key(record.create_ms) + key, b"")


def _expiry(record: IdentityRecord) -> bytes:
    return records.key(record.expire_ms) + records.key(record.number)
