"""Runners: every shard once, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.assembly import EmbeddingSettings
from engine.errors import InvalidInputError, UnavailableError, WeightsError
from indexer.items import Item, Reason
from indexer.mapper import Outcome, PictureMapper
from indexer.runners import WORKERS_MAX, Inline, Processes
from indexer.sources.folder import FolderSource

NUM_SHARDS, NUM_ITEMS = 5, 7
DEADLY = "3/4"


class Deadly(PictureMapper):
    """Embeds nothing; its process is killed at a certain item, as the system does for want of memory."""

    def load(self) -> None:
        pass

    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        if any(item.key == DEADLY for item in items):
            os.kill(os.getpid(), signal.SIGKILL)
        return [Outcome(item.key, item.identity_id, qualities=[1.0]) for item in items]


def shards() -> list[tuple[int, list[Item]]]:
    return [
        (number, [Item(f"{number}/{item}", "ada") for item in range(NUM_ITEMS)])
        for number in range(NUM_SHARDS)
    ]


class Plain(Deadly):
    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        return [Outcome(item.key, item.identity_id, qualities=[1.0]) for item in items]


def mapper(kind: type[PictureMapper], tmp_path: Path) -> PictureMapper:
    return kind(FolderSource(tmp_path), EmbeddingSettings())


@pytest.mark.parametrize("runner", [Inline(), Processes(1), Processes(3)])
def test_every_shard_is_mapped_once(runner: Inline | Processes, tmp_path: Path) -> None:
    found = dict(runner.run(mapper(Plain, tmp_path), shards()))
    assert sorted(found) == list(range(NUM_SHARDS))
    for number, items in shards():
        assert [outcome.key for outcome in found[number]] == [item.key for item in items]


def test_no_shards_need_no_work(tmp_path: Path) -> None:
    assert list(Processes(2).run(mapper(Plain, tmp_path), [])) == []


def test_an_item_that_kills_its_process_is_refused_and_nothing_else(tmp_path: Path) -> None:
    mapped = list(Processes(2).run(mapper(Deadly, tmp_path), shards()))
    assert sorted(number for number, _ in mapped) == list(range(NUM_SHARDS))
    outcomes = {outcome.key: outcome for _, part in mapped for outcome in part}
    assert len(outcomes) == NUM_SHARDS * NUM_ITEMS
    assert outcomes.pop(DEADLY).reason == Reason.WORKER_KILLED
    assert not any(outcome.reason for outcome in outcomes.values())


@pytest.mark.parametrize("num", [0, WORKERS_MAX + 1])
def test_a_number_of_workers_that_cannot_be_is_refused(num: int) -> None:
    with pytest.raises(InvalidInputError, match=f"1 to {WORKERS_MAX}"):
        Processes(num)


class Failing(Deadly):
    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        raise WeightsError("no weights", hint="Look for them.")


def test_what_a_mapper_raises_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights") as raised:
        list(Processes(2).run(mapper(Failing, tmp_path), shards()))
    assert raised.value.hint == "Look for them."
    assert not multiprocessing.active_children()


def test_whoever_stops_listening_leaves_no_process_behind(tmp_path: Path) -> None:
    mapped = Processes(2).run(mapper(Plain, tmp_path), shards())
    next(mapped)
    assert len(multiprocessing.active_children()) == 2
    mapped.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


class Stillborn(Deadly):
    def load(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Fatal(Deadly):
    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def test_a_process_killed_before_it_is_ready_refuses_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="while it loaded"):
        list(Processes(2).run(mapper(Stillborn, tmp_path), shards()))


def test_where_every_picture_kills_its_process_it_is_not_the_pictures(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="each of"):
        list(Processes(1).run(mapper(Fatal, tmp_path), shards()))
