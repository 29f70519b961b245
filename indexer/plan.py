"""What a job will do: the items of its source in numbered shards, written once.

::

    JOB/plan/00000 ...   the items of each shard of pictures
    JOB/plan/refused     what the source says is wrong in itself
    JOB/plan/header      written last: without it there is no plan

A source of vectors has only a header: its shards are ranges of rows. Knows no networks and no galleries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from engine.errors import InvalidInputError
from indexer.fault import FAULT_ITEMS, refuse_fault
from indexer.files import make_folder, read_value, write_value
from indexer.items import Item, PictureSource, Refusal, VectorSource

PICTURES_PER_SHARD = 256
"""A few seconds of a core, which is what a kill costs."""
ROWS_PER_SHARD = 65_536
"""Rows of vectors: 32 MB at 128 dimensions."""
_HEADER, _REFUSED = "header", "refused"


class Plan(msgspec.Struct, frozen=True):
    """The header of a plan."""

    kind: str
    """Of the source."""
    is_pictures: bool
    num_items: int
    """Pictures or rows, without those refused."""
    num_refused: int
    digest: str
    """Of the names, sizes and times of everything in the source."""
    size_bytes: int
    """Of the pictures; 0 for vectors."""
    dimension: int = 0
    """Of vectors; 0 for pictures."""

    @property
    def num_shards(self) -> int:
        """Shards, the last one may be short."""
        return -(-self.num_items // self.items_per_shard)

    @property
    def items_per_shard(self) -> int:
        """Items of every shard but the last."""
        return PICTURES_PER_SHARD if self.is_pictures else ROWS_PER_SHARD

    @property
    def unit(self) -> str:
        """What its items are."""
        return "pictures" if self.is_pictures else "vectors"

    def items_of(self, number: int) -> int:
        """Items of this shard."""
        return min(self.items_per_shard, self.num_items - number * self.items_per_shard)


def read_plan(folder: Path) -> Plan | None:
    """The plan in a job's folder; None where there is none yet."""
    path = folder / _HEADER
    return read_value(path, Plan) if path.exists() else None


def make_plan(folder: Path, source: PictureSource | VectorSource) -> Plan:
    """List the source and write the plan. Raises InvalidInputError for a source without items."""
    make_folder(folder)
    plan = _plan_of(source, folder)
    if not plan.num_items:
        refused = refusals(folder)
        first = f"{refused[0].reason} {refused[0].detail}".rstrip() if refused else ""
        example = f", for example {refused[0].key}: {first}" if refused else ""
        raise InvalidInputError(
            f"the source holds nothing that can be used, {len(refused):,} were refused{example}"
        )
    write_value(folder / _HEADER, plan)
    return plan


def digest_of(source: PictureSource | VectorSource) -> str:
    """What `Plan.digest` would be now."""
    return _plan_of(source, None).digest


def shard(folder: Path, number: int) -> list[Item]:
    """The items of a shard of pictures."""
    return read_value(folder / f"{number:05d}", list[Item])


def refusals(folder: Path) -> list[Refusal]:
    """What the source said is wrong in itself."""
    path = folder / _REFUSED
    return read_value(path, list[Refusal]) if path.exists() else []


def _plan_of(source: PictureSource | VectorSource, folder: Path | None) -> Plan:
    if isinstance(source, VectorSource):
        return Plan(source.kind, False, source.num_rows, 0, source.fingerprint(), 0, source.dimension)
    digest, num_items, size_bytes = hashlib.sha256(), 0, 0
    refused: list[Refusal] = []
    for number, items in enumerate(_shards(source.items(), refused)):
        data = msgspec.msgpack.encode(items)
        digest.update(data)
        num_items += len(items)
        size_bytes += sum(item.size_bytes for item in items)
        if folder is not None:
            write_value(folder / f"{number:05d}", items)
    if folder is not None:
        write_value(folder / _REFUSED, refused)
    return Plan(source.kind, True, num_items, len(refused), digest.hexdigest(), size_bytes)


def _shards(listed: Iterable[Item | Refusal], refused: list[Refusal]) -> Iterator[list[Item]]:
    items: list[Item] = []
    has_items = False
    for one in listed:
        if isinstance(one, Refusal):
            refused.append(one)
            if not has_items and len(refused) == FAULT_ITEMS:
                refuse_fault(refused)
            continue
        has_items = True
        items.append(one)
        if len(items) == PICTURES_PER_SHARD:
            yield items
            items = []
    if items:
        yield items
