"""Pages of lists: their size and the opaque token that says where the next one begins. Knows no lists."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.errors import InvalidInputError
from engine.limits import PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX

T = TypeVar("T")
_VERSION = b"\x01"
"""First byte of a token's content, so that a later version may mean something else by it."""


def page_of(
    fetch: Callable[[str, int], Sequence[T]], key: Callable[[T], str], page_size: int, page_token: str
) -> tuple[Sequence[T], str]:
    """Fetch one page and the token of the next, empty where there is none.

    `fetch(after, limit)` lists items whose keys come after that one. Raises InvalidInputError for a page size
    or token that cannot be.
    """
    if not 0 <= page_size <= PAGE_ITEMS_MAX:
        raise InvalidInputError(
            f"page_size is {page_size}; it must be 1 to {PAGE_ITEMS_MAX}, or 0 for the default"
        )
    size = page_size or PAGE_ITEMS_DEFAULT
    # One more than asked for tells whether there is another page.
    items = fetch(read_token(page_token), size + 1)
    if len(items) <= size:
        return items, ""
    return items[:size], write_token(key(items[size - 1]))


def write_token(last: str) -> str:
    """Make the token of the page that begins after `last`."""
    return base64.urlsafe_b64encode(_VERSION + last.encode()).decode()


def read_token(token: str) -> str:
    """Read the key after which the page begins; an empty token is the first page.

    Raises InvalidInputError for a text that no server gave out.
    """
    if not token:
        return ""
    try:
        content = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        version, last = content[:1], content[1:].decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidInputError(_WRONG) from error
    if version != _VERSION or not last:
        raise InvalidInputError(_WRONG)
    return last


_WRONG = "page_token was not given out by this server: use next_page_token of the page before, unchanged"
