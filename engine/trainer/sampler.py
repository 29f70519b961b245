"""Which crops make up a batch: P identities with K pictures each. Knows nothing of pixels or losses.

Hermans et al. 2017, "In Defense of the Triplet Loss for Person Re-Identification", section 2.1 (PK batches).

The rule:

* an epoch is a seeded permutation of the identities with two pictures or more, cut into steps of P; what the
  last step lacks is taken from the epoch's beginning, so that each identity comes once before any twice, and
  all batches have one shape;
* an identity shows K of its pictures, by the same rule over its epochs: each comes once before any twice, and
  no picture twice in a batch. Only an identity with fewer than K shows all of them and then some again: such
  a pair is of one picture, and differs by augmentation alone. A K that no identity has is refused;
* `num_singles` rows of identities with one picture follow, in permutations of their own: nothing is a
  positive of theirs, so they serve as negatives only.

Everything is a pure function of seed and step: a run that is resumed needs no state from here. With several
ranks each computes the whole batch and takes a contiguous part of it: laid end to end, the parts are the
batch of one process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError, SettingsError

Rows = NDArray[np.int64]

_IDENTITIES, _SINGLES, _PICTURES, _FILLING = range(4)
"""Streams of random numbers that do not depend on each other."""


class PKSampler:
    """Rows of the batch of each step."""

    def __init__(
        self,
        labels: Rows,
        num_identities: int,
        num_pictures: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        *,
        num_singles: int = 0,
    ):
        """`labels` are int64[n], `num_identities` is P, `num_pictures` is K.

        Raises InvalidInputError where the data cannot give a pair of positives and a negative, and
        SettingsError where P, K or num_singles is more than it allows, or the batch cannot be divided among
        the ranks; each message says what would fit.
        """
        self._rows_of, self._singles = _group(labels)
        self._seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self._num_identities, self._num_pictures, self._num_singles = (
            num_identities,
            num_pictures,
            num_singles,
        )
        self._check()
        self.global_batch_size = num_identities * num_pictures + num_singles
        """Rows of a batch, of all ranks together."""
        if not 0 <= rank < num_ranks or self.global_batch_size % num_ranks:
            raise SettingsError(
                f"a batch of {num_identities} x {num_pictures} + {num_singles} rows cannot be divided among"
                f" {num_ranks} ranks (this is rank {rank})",
                hint="Take a number of identities that is a multiple of the number of ranks.",
            )
        self.batch_size = self.global_batch_size // num_ranks
        """Rows of this rank's part."""

    @property
    def first_place(self) -> int:
        """Where in the whole batch this rank's part begins."""
        return self.rank * self.batch_size

    def rows(self, step: int) -> Rows:
        """Rows int64[batch_size] of this rank's part of the batch of a step, from 0; identity by identity."""
        return self.global_rows(step)[self.first_place : self.first_place + self.batch_size]

    def global_rows(self, step: int) -> Rows:
        """Rows int64[global_batch_size] of all ranks together; those of identities with one picture last."""
        if step < 0:
            raise InvalidInputError(f"step is {step}; steps are counted from 0")
        rows = [
            self._pictures_of(identity, epoch, is_filling=is_filling)
            for identity, epoch, is_filling in self._places(
                step, len(self._rows_of), self._num_identities, _IDENTITIES
            )
        ]
        if self._num_singles:
            singles = self._places(step, len(self._singles), self._num_singles, _SINGLES)
            rows.append(self._singles[[place for place, _, _ in singles]])
        return np.concatenate(rows)

    def _places(self, step: int, num: int, per_step: int, stream: int) -> list[tuple[int, int, bool]]:
        """Of `num` things those shown in a step, each with its epoch and whether it only fills up."""
        epoch, places = _cut(step, num, per_step)
        order = self._permutation(num, stream, epoch)
        return [(int(order[place % num]), epoch, place >= num) for place in places.tolist()]

    def _pictures_of(self, identity: int, epoch: int, *, is_filling: bool) -> Rows:
        rows = self._rows_of[identity]
        if is_filling:
            # A visit out of turn must not use up the pictures of the next one.
            order = self._permutation(len(rows), _FILLING, epoch, identity)
            return rows[np.resize(order, self._num_pictures)]
        turn, places = _cut(epoch, len(rows), self._num_pictures)
        order = self._permutation(len(rows), _PICTURES, turn, identity)
        return rows[order[places % len(rows)]]

    def _permutation(self, num: int, *words: int) -> Rows:
        return np.random.default_rng([self._seed, *words]).permutation(num)

    def _check(self) -> None:
        num, num_singles = len(self._rows_of), len(self._singles)
        if not num:
            raise InvalidInputError(
                f"each of the {num_singles:,} identities has one picture only: there is no positive pair",
                hint="Give at least two pictures of some people.",
            )
        if num + num_singles < 2:
            raise InvalidInputError(
                "all pictures are of one identity: there is no negative",
                hint="Give a source with a folder for each of several people.",
            )
        most = max(len(rows) for rows in self._rows_of)
        _check_range("P, identities in a batch,", self._num_identities, 1, num, "have two pictures or more")
        _check_range("K, pictures of an identity,", self._num_pictures, 1, most, "is the most that one has")
        _check_range("identities with one picture", self._num_singles, 0, num_singles, "are there")
        if self._num_identities + self._num_singles < 2:
            raise SettingsError(
                "a batch of one identity has no negative",
                hint="Raise P, or add identities with one picture.",
            )
        if self._seed < 0:
            raise SettingsError(f"seed is {self._seed}; it must be at least 0")


def _cut(step: int, num: int, per_step: int) -> tuple[int, Rows]:
    """The round that a step falls into, of ceil(num / per_step) steps each, and its places int64[per_step].

    Places from `num` on fill up the last step of a round: place % num begins it anew.
    """
    turn, part = divmod(step, -(-num // per_step))
    return turn, np.arange(part * per_step, (part + 1) * per_step)


def _check_range(what: str, value: int, least: int, most: int, why: str) -> None:
    if not least <= value <= most:
        raise SettingsError(
            f"{what} is {value}; it must be {least} to {most}: {most} {why}",
            hint="Set batch.num_identities (P), batch.num_pictures (K) or batch.num_singles to a number in"
            " that range, or give more pictures.",
        )


def _group(labels: Rows) -> tuple[list[Rows], Rows]:
    """Rows of each identity with two pictures or more, in order of labels, and rows of all others."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInputError(f"labels must be int64[n], n >= 1, not {labels.dtype}{list(labels.shape)}")
    if labels.min() < 0 or (np.bincount(labels) == 0).any():
        raise InvalidInputError(
            "labels must be consecutive from 0: some number has no row, or is negative",
            hint="Renumber them: CropSet.subset does.",
        )
    order = np.argsort(labels, kind="stable").astype(np.int64)
    groups = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    singles = [group for group in groups if len(group) == 1]
    return [group for group in groups if len(group) > 1], np.concatenate([np.empty(0, np.int64), *singles])
