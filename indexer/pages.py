"""Who is enrolled in a gallery, page by page, with vectors and, where asked for, kept crops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.errors import IdentityNotFoundError
from engine.types import Identity, StoredTemplate

if TYPE_CHECKING:
    from engine.client import Client
    from engine.gallery import Gallery

PAGE_IDENTITIES = 512
"""Identities read at once."""
CROPS_PAGE_IDENTITIES = 64
"""Identities read at once with their crops: 16 MB at a full 16 templates each."""
NUM_FETCHES = 8
"""Identities asked for at once from a server."""

Page = Sequence[tuple[Identity, Sequence[StoredTemplate]]]


def stored_pages(gallery: Gallery, *, with_crops: bool = False) -> Iterator[Page]:
    """All identities of a gallery of this process, in order of the bytes of their ids."""
    after, limit = "", CROPS_PAGE_IDENTITIES if with_crops else PAGE_IDENTITIES
    while page := gallery.list_identities(after=after, limit=limit, with_crops=with_crops):
        yield page
        after = page[-1][0].identity_id


def served_pages(client: Client, gallery_id: str, *, with_crops: bool = False) -> Iterator[Page]:
    """All identities of a server's gallery, in order of the bytes of their ids.

    No snapshot: who is enrolled or removed meanwhile may be in it or not, each whole or not at all. Raises
    what the client raises.
    """

    def fetch(identity_id: str) -> tuple[Identity, Sequence[StoredTemplate]] | None:
        try:
            found = client.get_identity(gallery_id, identity_id, with_vectors=True, with_crops=with_crops)
        except IdentityNotFoundError:
            return None  # removed since it was listed
        return found, found.templates

    limit = CROPS_PAGE_IDENTITIES if with_crops else PAGE_IDENTITIES
    with ThreadPoolExecutor(NUM_FETCHES, "pages") as threads:
        listed = client.list_identities(gallery_id, page_size=PAGE_IDENTITIES)
        while names := [identity.identity_id for identity in itertools.islice(listed, limit)]:
            yield [found for found in threads.map(fetch, names) if found is not None]
