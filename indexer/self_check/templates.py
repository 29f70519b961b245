"""A gallery's templates in memory, side by side in order of their identities: what a self-check looks at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError, PreconditionError
from engine.types import Vectors
from indexer.pages import Page
from indexer.self_check.findings import Place

BLOCK_FLOATS = 1 << 22
"""Of vectors or similarities computed at once: 16 MiB."""


@dataclass(frozen=True)
class Templates:
    """n templates of the identities that have any."""

    identity_ids: list[str]
    starts: NDArray[np.int64]
    """int64[identities + 1]: the first row of each identity, and the number of rows"""
    vectors: Vectors
    """float32[n, d], unit length"""
    template_ids: NDArray[np.uint64]
    """uint64[n]"""
    sources: list[str]
    qualities: NDArray[np.float32]
    """float32[n]"""
    num_without: int
    """Identities without templates."""

    @classmethod
    def read(cls, pages: Iterable[Page], dimension: int) -> Templates:
        """Read all pages. Raises what `pages` raises, InvalidInputError for a vector of another dimension."""
        identity_ids: list[str] = []
        sources: list[str] = []
        sizes: list[int] = []
        parts: list[Vectors] = []
        ids: list[int] = []
        qualities: list[float] = []
        num_without = 0
        for identity, templates in itertools.chain.from_iterable(pages):
            if not templates:
                num_without += 1
                continue
            identity_ids.append(identity.identity_id)
            sizes.append(len(templates))
            ordered = sorted(templates, key=lambda template: template.template_id)
            for template in ordered:
                if template.vector.shape != (dimension,):
                    raise InvalidInputError(
                        f"a template of identity {identity.identity_id[:80]!r} has a vector of shape"
                        f" {template.vector.shape}, the contract says ({dimension},)",
                        hint="Read the templates with their vectors.",
                    )
                ids.append(template.template_id)
                sources.append(template.source)
                qualities.append(template.quality)
            parts.append(np.stack([template.vector for template in ordered]))
        starts = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(np.array(sizes, np.int64), out=starts[1:])
        vectors = np.concatenate(parts) if parts else np.empty((0, dimension), np.float32)
        return cls(
            identity_ids,
            starts,
            np.ascontiguousarray(vectors, np.float32),
            np.array(ids, np.uint64),
            sources,
            np.array(qualities, np.float32),
            num_without,
        )

    @property
    def num_identities(self) -> int:
        """Identities with templates."""
        return len(self.identity_ids)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Templates int64[identities] of each identity."""
        return np.diff(self.starts)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The identity int64[n] of each row."""
        return np.repeat(np.arange(self.num_identities), self.sizes)

    def require_several(self, gallery_id: str) -> None:
        """Raise PreconditionError where there are not two identities with templates."""
        if self.num_identities < 2:
            held = "no templates" if not self.num_identities else "one identity with templates"
            raise PreconditionError(
                f"gallery {gallery_id!r} has {held}: a check compares identities with each other",
                hint="Check it again once two identities or more are enrolled.",
            )

    def rows_of(self, identities: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows int64[r] of identities int64[m], those of one beside each other."""
        sizes = self.sizes[identities]
        shifts = self.starts[identities] - (np.cumsum(sizes) - sizes)
        rows: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
        return rows

    def span(self, identity: int) -> slice:
        """Rows of one identity."""
        return slice(int(self.starts[identity]), int(self.starts[identity + 1]))

    def between(self, first: int, second: int) -> NDArray[np.float64]:
        """Similarities float64[m, k] of two identities' templates."""
        return self.vectors[self.span(first)].astype(np.float64) @ self.vectors[self.span(second)].T

    def place(self, row: int) -> Place:
        """What to call a template."""
        identity = int(np.searchsorted(self.starts, row, side="right")) - 1
        return Place(self.identity_ids[identity], int(self.template_ids[row]), self.sources[row])

    def own_nearest(self) -> NDArray[np.float32]:
        """Similarity float32[n] of each template to the nearest of its own identity; -inf: it is alone."""
        nearest = np.full(len(self.vectors), -np.inf, np.float32)
        for size, firsts in self._by_size():
            rows = firsts[:, None] + np.arange(size)
            vectors = self.vectors[rows]
            found = vectors @ vectors.transpose(0, 2, 1)
            found[:, np.arange(size), np.arange(size)] = -np.inf
            nearest[rows] = found.max(axis=2)
        return nearest

    def _by_size(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """First rows of identities with equally many templates, at least two, some at a time."""
        sizes = self.sizes
        for size in np.unique(sizes[sizes > 1]).tolist():
            firsts = self.starts[:-1][sizes == size]
            num = max(1, BLOCK_FLOATS // (size * max(size, self.vectors.shape[1])))
            for start in range(0, len(firsts), num):
                yield size, firsts[start : start + num]
