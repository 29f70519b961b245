"""Names that a source gives to its items: keys, identities and attributes that every gallery can hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from engine.errors import InvalidIdError, InvalidInputError
from engine.limits import SOURCE_BYTES_MAX
from engine.rules import check_attributes, check_identity_id, check_source
from indexer.items import Reason, Refusal

KEY_DIGEST_DIGITS = 32
"""Hex digits of sha256 that keep a shortened key unique."""
ROW_DIGITS_MAX = 20
"""Of a row's number in a key."""
DETAIL_CHARACTERS_MAX = 200
"""Of what a source holds, as shown to a person."""

_PLAIN_KEY = re.compile(rf"[ -~]{{1,{SOURCE_BYTES_MAX}}}")
_PLAIN_ID = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""Ids that break no rule, told in a third of the time that the rules take."""


def source_key(text: str) -> str:
    """Make a key of a name: itself where a template's source may be called so, otherwise a shortened form.

    That form is the same in every run: the beginning, "~", and a part of the name's sha256.
    """
    if _PLAIN_KEY.fullmatch(text):
        return text
    try:
        check_source(text)
    except (InvalidInputError, UnicodeEncodeError):
        return _shortened(text, SOURCE_BYTES_MAX)
    return text


def row_prefix(file_name: str) -> str:
    """Make what stands before a row's number in the keys of a file's rows: its name, and a colon."""
    longest = f"{file_name}:{0:0{ROW_DIGITS_MAX}}"
    if source_key(longest) == longest:
        return f"{file_name}:"
    return f"{_shortened(file_name, SOURCE_BYTES_MAX - ROW_DIGITS_MAX - 1)}:"


def printable(text: str) -> str:
    """Replace what cannot be shown, or written as UTF-8, by question marks."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def identity_problem(identity_id: str) -> str | None:
    """Say why no identity can have this id; None where one can."""
    if _PLAIN_ID.fullmatch(identity_id):
        return None
    try:
        check_identity_id(identity_id)
    except InvalidIdError as error:
        return f"{error.message}. {error.hint}" if "NFC" in error.message else error.message
    return None


def identity_problems(identity_ids: Iterable[str]) -> dict[str, str]:
    """Say what is wrong with those ids that no identity can have."""
    plain = _PLAIN_ID.fullmatch
    doubtful = [identity_id for identity_id in set(identity_ids) if not plain(identity_id)]
    return {bad: problem for bad in doubtful if (problem := identity_problem(bad))}


def attributes_problem(attributes: Mapping[str, str]) -> str | None:
    """Say why no identity can have these attributes; None where one can."""
    if not attributes:
        return None
    try:
        check_attributes(attributes)
    except InvalidInputError as error:
        return error.message
    return None


def bad_identity(key: str, identity_id: str, problem: str) -> Refusal:
    """Refuse an item for its identity's name."""
    shown = printable(identity_id)[:DETAIL_CHARACTERS_MAX]
    return Refusal(source_key(key), Reason.BAD_IDENTITY, shown, printable(problem))


def _shortened(text: str, bytes_max: int) -> str:
    """Keep the beginning of a name, and a part of its sha256."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:KEY_DIGEST_DIGITS]
    return (
        printable(text).encode()[: bytes_max - KEY_DIGEST_DIGITS - 1].decode("utf-8", "ignore") + "~" + digest
    )
