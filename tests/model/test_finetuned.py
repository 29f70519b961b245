"""The fine-tuned network that ships: its files, its contract, and faces of people it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.embedding import delta
from engine.embedding.align import ALIGNMENTS, align
from engine.embedding.detect import Detector
from engine.embedding.embed import Embedder
from engine.embedding.images import decode
from engine.embedding.networks import load_network
from engine.embedding.pipeline import choose
from engine.types import FaceChoice

NAME = "dlib-resnet-ft1"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(load_network(NAME, "cpu"))


def test_it_is_small_and_says_where_it_comes_from() -> None:
    folder = delta.CONTRACTS / NAME
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert max(sizes) < 4 << 20
    assert sum(sizes) < 10_000_000
    contract = delta.read_contract(folder)
    card = (folder / contract.card).read_text("utf-8")
    for heading in ("## Training command", "## Data statement", "## Figures", "## Limits"):
        assert heading in card


def test_its_contract_is_its_own(embedder: Embedder) -> None:
    default = Embedder(load_network("dlib-resnet", "cpu")).contract
    assert embedder.contract.name == NAME
    assert embedder.contract.digest != default.digest
    assert embedder.contract.mirror
    assert embedder.contract.dimension == 128
    assert embedder.contract.threshold < default.threshold


@pytest.mark.data
def test_people_it_never_saw_lie_farther_apart_than_before(data_folder: Path, embedder: Embedder) -> None:
    """Forty people of folds 7 and 8 with two pictures: strangers must have moved apart more than friends."""
    lines = (data_folder / "lfw" / "people.tsv").read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    people = [name for name, num, fold in rows if int(num) == 2 and int(fold) in {7, 8}][:40]
    detector = Detector("cpu")
    crops = []
    for name in people:
        for path in sorted((data_folder / "lfw" / "images" / name).iterdir()):
            picture = decode(path.read_bytes())
            (faces,) = detector.detect([picture], 70)
            (face,) = choose(faces, FaceChoice.CENTRE, picture.shape[1], picture.shape[0])
            crops.append(align(picture, face.keypoints, ALIGNMENTS["dlib-150"]))
    gaps = []
    for one in (Embedder(load_network("dlib-resnet", "cpu")), embedder):
        templates = one.embed(np.stack(crops)).astype(np.float64)
        similarities = templates[0::2] @ templates[1::2].T
        mated = np.diag(similarities)
        strangers = similarities[~np.eye(len(people), dtype=bool)]
        gaps.append((mated.mean() - strangers.mean()) / strangers.std())
    assert gaps[1] > gaps[0]
