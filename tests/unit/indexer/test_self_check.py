"""What a gallery's self-check finds: planted errors among real and drawn people, nothing among the clean."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.errors import InvalidInputError, PreconditionError
from engine.types import Identity, StoredTemplate, Vector, Vectors
from indexer.self_check import check as self_check
from indexer.self_check.check import CheckSettings, check, choose_probes, duplicate_similarity
from indexer.self_check.findings import (
    COLUMNS,
    FAR_FROM_OWN,
    GIVEN,
    NEAR_ANOTHER,
    Findings,
    write_csv,
)
from indexer.self_check.templates import Templates
from tests.contract.naive import unit_vectors

Row = tuple[str, str, Vector]
KNOWN_ERROR = ("Andrew_Caldecott", "Andrew_Gilligan")
"""One picture under two names in LFW itself."""


def templates_of(rows: Iterable[Row], *empty: str, dimension: int | None = None) -> Templates:
    """Identity, source and vector of each template, read as from a gallery's pages."""
    by_identity: dict[str, list[StoredTemplate]] = {name: [] for name in empty}
    for number, (identity_id, source, vector) in enumerate(rows, 1):
        by_identity.setdefault(identity_id, []).append(StoredTemplate(number, vector, 0.5, source, 0.0))
    page = [
        (Identity(name, {}, tuple(one.template_id for one in held), 0.0), held[::-1])
        for name, held in sorted(by_identity.items())
    ]
    return Templates.read([page[:2], page[2:]], dimension or (len(vector) if by_identity else 4))


def near(rng: np.random.Generator, centre: Vector, similarity: float) -> Vector:
    """A unit vector at exactly this cosine."""
    noise = rng.normal(size=len(centre))
    noise -= (noise @ centre) * centre
    noise /= np.linalg.norm(noise)
    found: Vector = (similarity * centre + np.sqrt(1 - similarity**2) * noise).astype(np.float32)
    return found


def people(rng: np.random.Generator, num: int, num_templates: int = 3, dimension: int = 64) -> list[Row]:
    """Clean people, far apart."""
    centres = unit_vectors(rng, num, dimension)
    return [
        (f"p{person:03}", f"p{person:03}-{place}.jpg", near(rng, centres[person], 0.95))
        for person in range(num)
        for place in range(num_templates)
    ]


LIKELY = CheckSettings(0.85, GIVEN)
"""Templates of one of `people` are .9 alike, give or take."""


def checked(rows: Sequence[Row], settings: CheckSettings = LIKELY) -> Findings:
    return check("staff", "elsewhere", templates_of(rows), settings)


def test_nothing_is_found_among_clean_people(rng: np.random.Generator) -> None:
    found = checked(people(rng, 60))
    counts = found.lists.counts
    assert (counts.duplicates, counts.near_another, counts.far_from_own, counts.regions) == (0, 0, 0, 0)
    assert (found.num_identities, found.num_templates, found.is_sample) == (60, 180, False)
    assert found.mated is not None
    assert (found.tops.num, found.mated.num, found.crowding.num) == (180, 180, 60)
    assert found.tops.median < 0.6
    assert found.mated.median > 0.85


def test_a_duplicate_a_mix_up_and_a_stray_are_told_apart(rng: np.random.Generator) -> None:
    rows = people(rng, 60)
    # One person under two names; a template of p010 under p020; a third that is of nobody; two swapped.
    rows = [("again" if place == 15 else name, *rest) for place, (name, *rest) in enumerate(rows)]  # type: ignore[misc]
    rows[30] = ("p020", *rows[30][1:])
    rows[90] = ("p030", "stray.jpg", unit_vectors(rng, 1, 64)[0])
    rows[120], rows[150] = ("p050", *rows[120][1:]), ("p040", *rows[150][1:])
    found = checked(rows)
    lists = found.lists
    assert [(pair.first.identity_id, pair.second.identity_id) for pair in lists.duplicates] == [
        ("again", "p005")
    ]
    pair = lists.duplicates[0]
    assert (pair.num_templates_first, pair.num_templates_second) == (1, 2)
    assert pair.first.source == "p005-0.jpg"
    assert pair.similarity == pytest.approx(
        max(float(rows[15][2] @ rows[other][2]) for other in (16, 17)), abs=1e-6
    )
    mixed = {one.template.source: one for one in lists.mix_ups}
    assert {"p010-0.jpg", "p040-0.jpg", "p050-0.jpg", "stray.jpg"} <= set(mixed)
    assert {one.template.source for one in lists.mix_ups[:3]} == {"p010-0.jpg", "p040-0.jpg", "p050-0.jpg"}
    wrong = mixed["p010-0.jpg"]
    assert (wrong.template.identity_id, wrong.nearest.identity_id) == ("p020", "p010")
    assert wrong.reason == NEAR_ANOTHER
    assert wrong.similarity > 0.8
    assert wrong.own_similarity < 0.6
    # Those that have the wrong one beside them are nearly as near to it as to each other: some may follow.
    assert lists.counts.near_another_likely >= 3


def test_a_template_far_from_its_own_is_told_where_nobody_else_is_near(rng: np.random.Generator) -> None:
    rows = people(rng, 60)
    rows[90] = ("p030", "odd.jpg", near(rng, rows[91][2], 0.6))
    found = checked(rows)
    assert [(one.template.source, one.reason) for one in found.lists.mix_ups] == [("odd.jpg", FAR_FROM_OWN)]
    assert (found.lists.counts.near_another, found.lists.counts.far_from_own) == (0, 1)
    assert found.limits.far_below is not None
    assert found.lists.mix_ups[0].own_similarity < found.limits.far_below


def test_a_crowd_and_somebody_like_nobody_are_found(rng: np.random.Generator) -> None:
    rows = people(rng, 200, 1)
    centre = unit_vectors(rng, 1, 64)[0]
    rows += [(f"crowd{person:02}", "", near(rng, centre, 0.8)) for person in range(12)]
    spread = np.eye(64, dtype=np.float32)[0]
    rows = [(name, source, _without(vector, spread)) for name, source, vector in rows]
    rows.append(("lonely", "ceiling.jpg", spread))
    found = checked(rows, CheckSettings(duplicate_similarity=0.9, duplicate_origin=GIVEN))
    crowd = {f"crowd{person:02}" for person in range(12)}
    assert {one.identity_id for one in found.lists.crowded} == crowd
    assert [set(region.identity_ids) for region in found.lists.regions] == [crowd]
    assert found.lists.crowded[0].crowding == max(one.crowding for one in found.lists.crowded)
    assert [one.template.source for one in found.lists.outliers] == ["ceiling.jpg"]
    assert found.lists.outliers[0].own_similarity is None
    assert found.mated is None


def _without(vector: Vector, axis: Vector) -> Vector:
    left = vector - (vector @ axis) * axis
    left /= np.linalg.norm(left)
    return left


def test_a_region_never_grows_beyond_its_limit(rng: np.random.Generator) -> None:
    centre = unit_vectors(rng, 1, 16)[0]
    rows = people(rng, 500, 1, 16) + [(f"c{person:03}", "", near(rng, centre, 0.95)) for person in range(70)]
    lists = checked(rows, CheckSettings(duplicate_similarity=1.0, duplicate_origin=GIVEN)).lists
    sizes = [len(region.identity_ids) for region in lists.regions]
    assert max(sizes) <= 50
    assert sum(sizes) >= 60


def test_lists_are_cut_and_counts_are_not(rng: np.random.Generator) -> None:
    rows = people(rng, 40)
    again = [(f"q{name}", source, near(rng, vector, 0.99)) for name, source, vector in rows]
    whole = checked([*rows, *again])
    cut = checked([*rows, *again], CheckSettings(0.85, GIVEN, limit=3))
    assert whole.lists.counts == cut.lists.counts
    assert whole.lists.counts.duplicates == 40
    assert cut.lists.duplicates == whole.lists.duplicates[:3]
    similarities = np.array([pair.similarity for pair in whole.lists.duplicates])
    # In order of what float32 makes of them.
    assert (np.diff(similarities) < 1e-6).all()
    assert whole.lists.counts.near_another_of_duplicates > 0
    assert not whole.lists.counts.is_duplicates_least


def test_more_copies_than_are_looked_at_are_said_to_be_more(rng: np.random.Generator) -> None:
    vector = unit_vectors(rng, 1, 8)[0]
    found = checked([(f"p{number:02}", "", vector) for number in range(15)], CheckSettings(0.9, GIVEN))
    assert found.lists.counts.is_duplicates_least
    assert found.lists.duplicates[0].similarity == pytest.approx(1.0, abs=1e-6)


def test_a_sample_finds_what_concerns_it(rng: np.random.Generator) -> None:
    rows = people(rng, 80)
    again = [(f"q{name}", source, vector) for name, source, vector in rows[:120]]
    settings = CheckSettings(0.85, GIVEN, num_probes=20, seed=3)
    templates = templates_of([*rows, *again])
    probes = choose_probes(templates, settings)
    assert probes is not None
    found = check("staff", "elsewhere", templates, settings)
    assert (found.num_checked_identities, found.is_sample) == (20, True)
    assert found.num_checked_templates == 60 == found.tops.num
    names = {templates.identity_ids[probe] for probe in probes}
    expected = {
        tuple(sorted((name, name[1:] if name[0] == "q" else f"q{name}")))
        for name in names
        if name[0] == "q" or int(name[1:]) < 40
    }
    assert {(pair.first.identity_id, pair.second.identity_id) for pair in found.lists.duplicates} == expected


def test_who_is_compared_follows_from_the_wish_and_the_limit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = templates_of(people(rng, 40))
    assert choose_probes(templates, CheckSettings()) is None
    assert choose_probes(templates, CheckSettings(num_probes=1000)) is None
    # Each with all takes half as long for all of them as for each by itself.
    assert choose_probes(templates, CheckSettings(num_probes=21)) is None
    chosen = choose_probes(templates, CheckSettings(num_probes=19, seed=1))
    assert chosen is not None
    assert len(set(chosen.tolist())) == 19
    monkeypatch.setattr(self_check, "PAIRS_MAX", 120 * 31)
    chosen = choose_probes(templates, CheckSettings())
    assert chosen is not None
    assert len(chosen) == 10


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "no templates"), (("ada",), "one identity"), (("ada", "ada"), "one identity")],
)
def test_a_gallery_with_nothing_to_compare_is_refused(names: Sequence[str], said: str) -> None:
    vectors: Vectors = np.eye(4, dtype=np.float32)
    templates = templates_of(
        [(name, "", vectors[place]) for place, name in enumerate(names)], "nobody", dimension=4
    )
    assert templates.num_without == 1
    with pytest.raises(PreconditionError, match=said):
        check("staff", "elsewhere", templates, CheckSettings(0.9, GIVEN))


def test_without_a_calibration_and_pairs_nothing_says_what_a_duplicate_is(rng: np.random.Generator) -> None:
    rows = people(rng, 30, 1)
    with pytest.raises(PreconditionError, match="only 0 of its templates") as caught:
        checked(rows, CheckSettings())
    assert "--duplicate-similarity" in caught.value.hint
    assert checked(rows, CheckSettings(0.9, GIVEN)).lists.counts.duplicates == 0
    several = templates_of(people(rng, 30, 2))
    own = several.own_nearest()
    assert duplicate_similarity(several, "staff") == pytest.approx(float(np.median(own)))


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="ada"):
        templates_of([("ada", "", np.ones(3, np.float32))], dimension=4)


def test_findings_are_json_and_a_table_of_equal_rows(rng: np.random.Generator) -> None:
    rows = people(rng, 60)
    rows[0] = ("=cmd", *rows[0][1:])
    rows[30] = ("p020", *rows[30][1:])
    found = checked(rows)
    told = msgspec.json.decode(msgspec.json.encode(found.as_json()))
    assert told["lists"]["duplicates"][0]["first"]["identity_id"] == "=cmd"
    assert told["is_sample"] is False
    file = io.BytesIO()
    write_csv(found, file)
    lines = file.getvalue().decode("utf-8-sig").splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("duplicate,1,'=cmd,")
    assert {line.count(",") for line in lines} == {len(COLUMNS) - 1}
    assert any(line.startswith("mix-up,1,p020,") for line in lines)


@pytest.fixture(scope="module")
def real_rows(data_folder: Path) -> list[Row]:
    """1,000 real templates of 410 people, by OpenFace."""
    folder = data_folder / "vectors"
    # Lines end in a carriage return alone.
    vectors = np.array(
        [line.split(",") for line in (folder / "openface_lfw_vectors.csv").read_text().split()], np.float64
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [line.split("/") for line in (folder / "openface_lfw_labels.csv").read_text().split()]
    return [
        (path[-2], path[-1], vector.astype(np.float32)) for path, vector in zip(paths, vectors, strict=True)
    ]


@pytest.mark.data
def test_real_people_under_two_names_are_named_before_any_innocent_pair(real_rows: list[Row]) -> None:
    split = {"Alejandro_Toledo", "Andre_Agassi", "Arnold_Schwarzenegger"}
    rows = [
        (f"{name} again" if name in split and place % 2 else name, source, vector)
        for place, (name, source, vector) in enumerate(real_rows)
    ]
    found = checked(rows, CheckSettings())
    pairs = [(pair.first.identity_id, pair.second.identity_id) for pair in found.lists.duplicates]
    assert set(pairs[:4]) == {(name, f"{name} again") for name in split} | {KNOWN_ERROR}


@pytest.mark.data
def test_swapped_pictures_of_real_people_are_mix_ups_and_no_duplicates(real_rows: list[Row]) -> None:
    rows, sources = list(real_rows), set()
    pairs = [("Amelie_Mauresmo", "Andre_Agassi"), ("Angelina_Jolie", "Arnold_Schwarzenegger")]
    for pair in pairs:
        places = [_most_typical(real_rows, name) for name in pair]
        for place, other in zip(places, pair[::-1], strict=True):
            rows[place] = (other, *rows[place][1:])
            sources.add(rows[place][1])
    found = checked(rows, CheckSettings())
    # One innocent picture is as bad for this network: its two pictures are .07 alike, the other is .86.
    worst = {one.template.source for one in found.lists.mix_ups[: len(sources) + 1]}
    assert worst == sources | {"Adolfo_Rodriguez_Saa_0001.png"}
    named = {(one.first.identity_id, one.second.identity_id) for one in found.lists.duplicates}
    assert not named & set(pairs)
    assert (
        found.lists.duplicates[0].first.identity_id,
        found.lists.duplicates[0].second.identity_id,
    ) == KNOWN_ERROR


def _most_typical(rows: list[Row], name: str) -> int:
    """Place of the picture most like the person's others."""
    places = [place for place, row in enumerate(rows) if row[0] == name]
    vectors = np.stack([rows[place][2] for place in places])
    return places[int((vectors @ vectors.T).sum(axis=1).argmax())]
