"""Aligned crops to unit-length templates under one embedding contract.

Knows the rule of mirroring and of unit length; knows nothing of pictures, detection or galleries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.embedding.align import Alignment
from engine.embedding.networks import Network
from engine.errors import SettingsError, WeightsError
from engine.types import EmbeddingContract, Vectors

BATCH_FACES_MAX = 32
"""Crops that go through the network at once; more gains nothing on a CPU and costs memory."""


class Embedder:
    """Makes templates with one network; safe to call from several threads where the network is."""

    def __init__(self, network: Network, batch_faces_max: int = BATCH_FACES_MAX):
        """Raises SettingsError where `batch_faces_max` is below 1."""
        if batch_faces_max < 1:
            raise SettingsError(f"batch_faces_max is {batch_faces_max}; at least 1 is needed")
        self._network = network
        self._batch_faces_max = batch_faces_max
        self.contract = EmbeddingContract(
            name=network.name,
            weights_sha256=network.weights_sha256,
            alignment=network.alignment.name,
            mirror=network.mirror,
            dimension=network.dimension,
            threshold=network.threshold,
        )

    @property
    def alignment(self) -> Alignment:
        """The crop that `embed` takes."""
        return self._network.alignment

    @property
    def device(self) -> str:
        """Device that the network really runs on."""
        return self._network.device

    def embed(self, crops: NDArray[np.uint8]) -> Vectors:
        """Templates float32[n, d] of crops uint8[n, h, w, 3] in RGB, in their order; n may be 0.

        Each is unit(raw(crop) + raw(mirrored crop)) where the contract mirrors, else unit(raw(crop)),
        of length 1 to within 1e-6. Raises InvalidInputError for crops of another size or type, and
        WeightsError where the network gives a zero or not finite vector.
        """
        raw: Vectors = np.empty((len(crops), self.contract.dimension), dtype=np.float32)
        # Once also for no crops, so that their shape is checked all the same.
        for start in range(0, max(1, len(crops)), self._batch_faces_max):
            raw[start : start + self._batch_faces_max] = self._raw(
                crops[start : start + self._batch_faces_max]
            )
        return self._unit(raw)

    def _raw(self, crops: NDArray[np.uint8]) -> Vectors:
        vectors = self._network(crops)
        if not self.contract.mirror:
            return vectors
        summed: Vectors = vectors + self._network(np.ascontiguousarray(crops[:, :, ::-1]))
        return summed

    def _unit(self, raw: Vectors) -> Vectors:
        lengths = np.sqrt(np.einsum("nd,nd->n", raw, raw, dtype=np.float64))
        is_bad = ~(np.isfinite(lengths) & (lengths > 0.0))
        if is_bad.any():
            raise WeightsError(
                f"network {self.contract.name} gave a zero or not finite vector for crop "
                f"{int(np.argmax(is_bad))} of {len(raw)}",
                hint="Its weights are damaged or not its own: give another file.",
            )
        unit: Vectors = (raw / lengths[:, None]).astype(np.float32)
        return unit
