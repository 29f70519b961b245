"""Synthetic galleries: vectors drawn to the distribution of real templates of an embedding contract.

Real templates are not zero-mean: dlib's lie in a narrow cone, different people at a cosine of .84. Fillers
drawn around zero would never meet a real face and make every search look easy. The distribution (mean and
covariance of one template per person, no picture and no template) lies in ``benchmarks/data``; make it anew:

    python -m benchmarks.galleries TEMPLATES.npy --out benchmarks/data/dlib-resnet.npz
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.types import Vectors

DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True)
class Distribution:
    """Mean and covariance of the templates of many people."""

    mean: NDArray[np.float32]
    """float32[d]"""
    covariance: NDArray[np.float32]
    """float32[d, d]"""
    num_people: int

    @classmethod
    def measured(cls, templates: Vectors) -> Distribution:
        """From float32[n, d], one unit template per person."""
        wide = templates.astype(np.float64)
        covariance = np.cov(wide, rowvar=False).astype(np.float32)
        return cls(wide.mean(axis=0).astype(np.float32), covariance, len(templates))

    @classmethod
    def load(cls, contract_name: str) -> Distribution:
        """The one measured for a contract, by the name of its network."""
        with np.load(DATA / f"{contract_name}.npz") as file:
            return cls(file["mean"], file["covariance"], int(file["num_people"]))

    def save(self, path: Path) -> None:
        """Write it to an npz file."""
        np.savez(path, mean=self.mean, covariance=self.covariance, num_people=self.num_people)

    def draw(self, num: int, seed: int) -> Vectors:
        """`num` unit vectors float32[num, d] with this mean and covariance before they are normalised."""
        rng = np.random.default_rng(seed)
        values, directions = np.linalg.eigh(self.covariance.astype(np.float64))
        spread = (directions * np.sqrt(np.maximum(values, 0.0))).astype(np.float32)
        noise: Vectors = rng.standard_normal((num, len(self.mean)), dtype=np.float32)
        vectors: Vectors = noise @ spread.T + self.mean
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def main() -> None:
    """Measure the distribution of templates in a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("templates", type=Path, help="npy file, float32[n, d], one unit template per person")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    arguments = parser.parse_args()
    distribution = Distribution.measured(np.load(arguments.templates))
    distribution.save(arguments.out)
    length = float(np.linalg.norm(distribution.mean))
    print(f"{distribution.num_people} people, mean vector {length:.3f} long -> {arguments.out}")


if __name__ == "__main__":
    main()
