"""Shards mapped on a Ray cluster by Ray Data: an actor for each worker holds the model. Extra `ray`."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from engine.errors import InvalidInputError
from indexer.items import Item
from indexer.mapper import Outcome, PictureMapper
from indexer.runners import Mapped, Shards


class Ray:
    """Maps shards on the cluster of the environment (RAY_ADDRESS), else on one that it starts here.

    The source's files must be at the same paths on every machine. Items of all shards are sent at once: some
    200 bytes of memory a picture.
    """

    def __init__(self, num_workers: int):
        """Raises InvalidInputError where Ray is not installed."""
        try:
            import ray.data
        except ImportError as error:
            raise InvalidInputError(
                "the runner ray is not installed", hint='Install it: pip install "identiface[ray]".'
            ) from error
        self._num_workers, self._ray = num_workers, ray

    def run(self, mapper: PictureMapper, shards: Shards) -> Mapped:
        """As `indexer.runners.Runner`."""
        ray = self._ray
        rows = [{"number": number, "items": msgspec.msgpack.encode(items)} for number, items in shards]
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            mapped = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(mapper,),
                batch_size=1,
                concurrency=min(self._num_workers, len(rows)),
                num_gpus=1 if ray.cluster_resources().get("GPU") and mapper.embedding.device != "cpu" else 0,
            )
            for row in mapped.iter_rows():
                yield int(row["number"]), msgspec.msgpack.decode(row["outcomes"], type=list[Outcome])
        finally:
            ray.shutdown()


class _Actor:
    """Holds the model."""

    def __init__(self, mapper: PictureMapper):
        self._mapper = mapper

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row: a shard's number and its items."""
        items = msgspec.msgpack.decode(batch["items"][0], type=list[Item])
        outcomes = np.empty(1, object)
        outcomes[0] = msgspec.msgpack.encode(self._mapper(items))
        return {"number": batch["number"], "outcomes": outcomes}
