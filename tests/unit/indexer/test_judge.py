"""What all pictures together tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from indexer import judge
from indexer.histogram import SimilarityHistogram
from indexer.items import Reason
from indexer.mapper import Outcome
from tests.contract.naive import unit_vectors


def found(*rows: tuple[str, str, Sequence[float]], qualities: Sequence[float] = ()) -> judge.Found:
    """Key, identity and vector of each picture; pictures of one key's first letter have the same bytes."""
    all_found = judge.Found()
    for place, (key, identity_id, vector) in enumerate(rows):
        unit = (np.array(vector) / np.linalg.norm(vector)).astype("<f4")
        quality = qualities[place] if qualities else 0.5
        all_found.add(
            Outcome(key, identity_id, sha256=key[0].encode(), vectors=[unit.tobytes()], qualities=[quality])
        )
    return all_found


def test_the_same_bytes_are_enrolled_once_under_whatever_name() -> None:
    refused = judge.duplicates(found(("a1", "ada", [1, 0]), ("b1", "bob", [0, 1]), ("a2", "bob", [1, 0])))
    assert [(one.key, one.reason, one.detail) for one in refused.values()] == [
        ("a2", Reason.DUPLICATE_OF, "a1, which is of ada")
    ]


def test_several_faces_of_one_picture_are_no_duplicates() -> None:
    assert not judge.duplicates(found(("a1", "ada", [1, 0]), ("a1", "ada", [0, 1])))


def test_a_template_among_strangers_is_named_with_the_nearest() -> None:
    histogram = SimilarityHistogram()
    flagged = judge.strangers(
        found(
            ("a1", "ada", [1, 0.0]),
            ("a2", "ada", [0, 1.0]),
            ("b1", "bob", [0.1, 1]),
            ("b2", "bob", [0.2, 1]),
            ("c1", "cyd", [1, 0.05]),
        ),
        histogram,
    )
    assert set(flagged) == {"a1", "a2"}
    assert "to cyd (c1)" in flagged["a1"].detail
    assert "to bob (b1)" in flagged["a2"].detail
    assert (histogram.same.sum(), histogram.other.sum()) == (4, 5)


@pytest.mark.parametrize("num_identities", [0, 1])
def test_without_another_identity_nobody_is_among_strangers(num_identities: int) -> None:
    rows = [(f"a{place}", "ada", [1.0, place]) for place in range(3 * num_identities)]
    assert not judge.strangers(found(*rows), SimilarityHistogram())


def test_strangers_are_those_of_a_naive_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "BLOCK_FLOATS", 7 * 60)
    vectors = unit_vectors(np.random.default_rng(1), 60, 4)
    names = [f"p{row % 9}" for row in range(60)]
    flagged = judge.strangers(
        found(*((f"{row}", names[row], vectors[row].tolist()) for row in range(60))), SimilarityHistogram()
    )
    expected = set()
    for row in range(60):
        others = [float(vectors[row] @ vectors[i]) for i in range(60) if names[i] != names[row]]
        own = [float(vectors[row] @ vectors[i]) for i in range(60) if names[i] == names[row] and i != row]
        if max(others) > max(own):
            expected.add(f"{row}")
    assert set(flagged) == expected
    assert 0 < len(expected) < 60


def test_the_best_templates_of_an_identity_are_kept_equals_by_their_order() -> None:
    rows = found(*((f"{row}", "ada", [1.0, row]) for row in range(5)), qualities=[0.5, 0.9, 0.5, 0.2, 0.9])
    assert set(judge.beyond_limit(rows, 3)) == {"2", "3"}
    assert set(judge.beyond_limit(rows.without({"1"}), 3)) == {"3"}
    assert not judge.beyond_limit(rows, 5)
