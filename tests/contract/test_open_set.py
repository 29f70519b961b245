"""A gallery that decides by a rate: thresholds that follow its size, answers as the naive gallery's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.decision.calibration import CORRECTED, PLAIN, Calibration
from engine.decision.crowding import CANDIDATES, NEIGHBOURS
from engine.errors import InvalidInputError, PreconditionError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.live_index import report_nothing
from engine.types import (
    CrowdingCorrection,
    Decision,
    EmbeddingContract,
    Enrollment,
    Fusion,
    GallerySettings,
    Identification,
    SearchOptions,
    Template,
    ThresholdOrigin,
    Vectors,
)
from tests.calibrations import CONTRACT, DIMENSION, EXPONENT, calibration, people, without
from tests.contract.naive import NaiveGallery

OTHER = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
RATED = GallerySettings(target_fpir=0.05, review_fpir=0.2, crowding=CrowdingCorrection.OFF)
CORRECTED_SETTINGS = GallerySettings(target_fpir=0.05, review_fpir=0.2, crowding=CrowdingCorrection.ON)


@contextlib.contextmanager
def opened(data: Path, calibrated: Calibration | None) -> Iterator[Galleries]:
    known = {} if calibrated is None else {calibrated.contract_digest: calibrated}
    galleries = Galleries.open(data, GalleriesSettings(maintenance_s=0), calibrations=known)
    with contextlib.closing(galleries):
        yield galleries


@pytest.fixture
def galleries(tmp_path: Path) -> Iterator[Galleries]:
    with opened(tmp_path / "data", calibration()) as found:
        yield found


def made(galleries: Galleries, settings: GallerySettings = RATED) -> Gallery:
    galleries.create("people", CONTRACT, settings)
    return galleries.get("people")


def fill(gallery: Gallery, vectors: Vectors, num_templates: int = 1) -> NaiveGallery:
    """Enroll an identity for every `num_templates` of the vectors, every third of them at a site."""
    model = NaiveGallery()
    for start in range(0, len(vectors), 256 * num_templates):
        stop = min(start + 256 * num_templates, len(vectors))
        batch = [
            Enrollment(
                f"p{row // num_templates}",
                tuple(map(Template, vectors[row : row + num_templates])),
                {"site": "tokyo"} if row // num_templates % 3 == 0 else {},
            )
            for row in range(start, stop, num_templates)
        ]
        gallery.enroll(batch)
        model.enroll(batch, 0.0)
    return model


def decided(answer: Identification, ambiguity: float = 0.0) -> Decision:
    """The decision by the words of the design."""
    values = [
        one.similarity if one.similarity_corrected is None else one.similarity_corrected
        for one in answer.candidates
    ]
    if values and values[0] >= answer.threshold:
        is_ambiguous = len(values) > 1 and values[1] > values[0] - ambiguity
        return Decision.REVIEW if is_ambiguous else Decision.MATCH
    review = math.inf if answer.review_threshold is None else answer.review_threshold
    return Decision.REVIEW if values and values[0] >= review else Decision.NO_MATCH


@pytest.mark.parametrize("num_templates", [1, 4])
@pytest.mark.parametrize("filter_", [{}, {"site": "tokyo"}])
def test_the_threshold_is_that_of_the_identities_left_to_search(
    galleries: Galleries, num_templates: int, filter_: dict[str, str]
) -> None:
    gallery = made(galleries)
    model = fill(gallery, people(400, 2), num_templates)
    probes = people(60, 3)
    answers = gallery.identify(probes, options=SearchOptions(filter=filter_))
    num = 400 // num_templates
    num = math.ceil(num / 3) if filter_ else num
    size = num * num_templates**EXPONENT
    row = calibration().curves[PLAIN].table.at(size)
    for probe, answer in zip(probes, answers, strict=True):
        expected = model.identify(probe, 10, 1.0, SearchOptions(filter=filter_))
        assert [(one.identity_id, one.similarity) for one in answer.candidates] == expected
        assert answer.num_identities == num
        assert answer.threshold == pytest.approx(row.threshold(0.05).value, abs=2e-3)
        assert answer.review_threshold == pytest.approx(row.threshold(0.2).value, abs=2e-3)
        assert answer.threshold_origin is ThresholdOrigin.CALIBRATION
        assert answer.estimated_fpir == pytest.approx(row.fpir(expected[0][1]), rel=0.05, abs=1e-6)
        assert answer.decision is decided(answer)
        assert all(one.similarity_corrected is None for one in answer.candidates)
    assert {answer.decision for answer in answers} == set(Decision)


def test_strangers_are_let_in_at_about_the_rate_wished(galleries: Galleries) -> None:
    gallery = made(galleries)
    fill(gallery, people(900, 4))
    answers = gallery.identify(people(3000, 5))
    num_matches = sum(answer.decision is Decision.MATCH for answer in answers)
    num_seen = sum(answer.decision is not Decision.NO_MATCH for answer in answers)
    assert 0.05 / 1.6 < num_matches / len(answers) < 0.05 * 1.6
    assert 0.2 / 1.4 < num_seen / len(answers) < 0.2 * 1.4
    told = [answer.estimated_fpir for answer in answers if answer.estimated_fpir is not None]
    # Of strangers the shares lie evenly.
    assert np.mean(told) == pytest.approx(0.5, abs=0.1)


def test_nobody_and_one_and_a_filter_that_leaves_nobody_are_answers(galleries: Galleries) -> None:
    gallery = made(galleries)
    probes = people(1, 3)

    def ask(**filter_: str) -> Identification:
        return gallery.identify(probes, options=SearchOptions(filter=filter_))[0]

    nobody = ask()
    alone = calibration().curves[PLAIN].table.threshold(0.05, 1.0).value
    assert (nobody.candidates, nobody.decision, nobody.num_identities) == ((), Decision.NO_MATCH, 0)
    assert nobody.estimated_fpir is None
    assert nobody.threshold == pytest.approx(alone)
    fill(gallery, probes)
    one = ask()
    assert (one.decision, one.num_identities) == (Decision.MATCH, 1)
    assert one.threshold == pytest.approx(alone)
    fill(gallery, people(200, 2))
    left = ask(site="nowhere")
    assert (left.candidates, left.decision, left.num_identities) == ((), Decision.NO_MATCH, 0)
    assert left.estimated_fpir is None
    assert left.threshold == pytest.approx(alone)
    assert ask().threshold > alone


def test_an_ambiguous_best_is_for_a_person_however_few_candidates_are_asked_for(
    galleries: Galleries,
) -> None:
    gallery = made(galleries, GallerySettings(threshold=0.5, ambiguity=0.1))
    base, aside = np.eye(DIMENSION, dtype=np.float32)[:2]
    near = (0.95 * base + math.sqrt(1 - 0.95**2) * aside).astype(np.float32)
    gallery.enroll([Enrollment("anna", (Template(base),)), Enrollment("ben", (Template(near),))])
    for k in (1, 2, 10):
        (answer,) = gallery.identify(base[None], k)
        assert (answer.decision, len(answer.candidates)) == (Decision.REVIEW, min(k, 2))
    gallery.update(ambiguity=0.04)
    assert gallery.identify(base[None], 1)[0].decision is Decision.MATCH
    # Two templates of one identity are no second identity, two equal identities are.
    gallery.update(ambiguity=0.1)
    gallery.remove_identities(["ben"])
    gallery.enroll([Enrollment("anna", (Template(near),))])
    assert gallery.identify(base[None], 1)[0].decision is Decision.MATCH
    gallery.enroll([Enrollment("anna's twin", (Template(base),))])
    assert gallery.identify(base[None], 1)[0].decision is Decision.REVIEW
    gallery.update(ambiguity=0.0)
    assert gallery.identify(base[None], 1)[0].decision is Decision.MATCH
    assert gallery.identify(base[None], 1, threshold=1.0)[0].decision is Decision.MATCH


def test_a_fixed_threshold_stays_and_the_rate_is_told(galleries: Galleries) -> None:
    gallery = made(galleries, GallerySettings())
    fill(gallery, people(300, 2))
    probe = people(1, 3)
    row = calibration().curves[PLAIN].table.at(300)
    for settings, expected, origin in (
        ({}, CONTRACT.threshold, ThresholdOrigin.CONTRACT),
        ({"threshold": 0.7}, 0.7, ThresholdOrigin.GALLERY),
    ):
        gallery.update(**settings)  # type: ignore[arg-type]
        (answer,) = gallery.identify(probe)
        assert (answer.threshold, answer.threshold_origin, answer.review_threshold) == (
            expected,
            origin,
            None,
        )
        assert answer.estimated_fpir == pytest.approx(row.fpir(answer.candidates[0].similarity), rel=0.05)
    (answer,) = gallery.identify(probe, threshold=0.1)
    assert (answer.threshold, answer.threshold_origin) == (0.1, ThresholdOrigin.REQUEST)
    (answer,) = gallery.identify(probe, options=SearchOptions(fusion=Fusion.MEAN))
    assert answer.estimated_fpir is not None


def test_without_a_calibration_a_rate_is_refused_and_never_becomes_a_constant(tmp_path: Path) -> None:
    with opened(tmp_path / "data", calibration()) as galleries:
        gallery = made(galleries)
        fill(gallery, people(20, 2))
        with pytest.raises(PreconditionError, match="elsewhere"):
            galleries.create("other", OTHER, RATED)
        galleries.create("other", OTHER)
        other = galleries.get("other")
        for name in ("target_fpir", "target_fmr"):
            with pytest.raises(PreconditionError, match=name):
                other.update(**{name: 0.1})  # type: ignore[arg-type]
        assert other.info().settings == GallerySettings()
        with pytest.raises(InvalidInputError, match="target_fpir"):
            gallery.update(target_fpir=math.nan)
    with opened(tmp_path / "data", None) as galleries:
        lost = galleries.get("people")
        with pytest.raises(PreconditionError, match="target_fpir") as raised:
            lost.identify(people(1, 3))
        assert "identiface calibrate" in raised.value.hint
        (answer,) = lost.identify(people(1, 3), threshold=0.4)
        assert (answer.threshold, answer.estimated_fpir) == (0.4, None)
        assert "refused" in lost.thresholds().warnings[0]
        lost.update(templates_per_identity_max=3)
        with pytest.raises(PreconditionError):
            lost.update(target_fpir=0.1)
        lost.update(clear_target_fpir=True)
        assert lost.identify(people(1, 3))[0].threshold == CONTRACT.threshold


def test_versions_that_know_no_rates_refuse_a_gallery_while_it_has_one(galleries: Galleries) -> None:
    galleries.create("people", CONTRACT, GallerySettings(keep_crops=True))
    gallery = galleries.get("people")

    def format_now() -> int:
        with gallery._store.read() as reader:
            return reader.format()

    assert format_now() == 3
    gallery.update(target_fpir=0.1)
    assert format_now() == 4
    fill(gallery, people(3, 2))
    gallery.remove_identities(["p1"], erase=True)
    assert format_now() == 4
    gallery.update(clear_target_fpir=True)
    assert format_now() == 3


def test_verify_goes_by_a_target_fmr_whatever_the_size(galleries: Galleries) -> None:
    gallery = made(galleries, GallerySettings(target_fmr=0.001))
    vectors = people(50, 2)
    fill(gallery, vectors[:1])
    first = gallery.verify(vectors[0], "p0")
    assert first.threshold_origin is ThresholdOrigin.CALIBRATION
    assert first.decision is Decision.MATCH
    fill(gallery, vectors)
    assert gallery.verify(vectors[0], "p0").threshold == first.threshold
    assert gallery.verify(vectors[0], "p0", threshold=0.1).threshold == 0.1
    # Its identify goes on by the contract's.
    assert gallery.identify(vectors[:1])[0].threshold == CONTRACT.threshold


def crowding_of(vectors: Vectors) -> list[float]:
    wide = vectors.astype(np.float64)
    near = np.sort(wide @ wide.T - 3.0 * np.eye(len(wide)), axis=1)[:, -NEIGHBOURS:]
    return [float(value) for value in near.mean(axis=1)]


def test_crowding_is_corrected_as_the_naive_way_corrects_it(galleries: Galleries) -> None:
    gallery = made(galleries, CORRECTED_SETTINGS)
    vectors, probes = people(400, 2), people(40, 3)
    model = fill(gallery, vectors[:380])
    gallery.build(report_nothing)
    crowding = dict(zip((f"p{row}" for row in range(380)), crowding_of(vectors[:380]), strict=True))
    late = [Enrollment(f"late{row}", (Template(vectors[row]),)) for row in range(380, 400)]
    gallery.enroll(late)
    model.enroll(late, 0.0)
    table = calibration().curves[CORRECTED].table
    for k in (1, 10, 40):
        for probe, answer in zip(probes, gallery.identify(probes, k), strict=True):
            plain = model.identify(probe, max(k, CANDIDATES), 1.0)
            own = sum(value for _, value in plain[1 : NEIGHBOURS + 1]) / NEIGHBOURS
            expected = sorted(
                (
                    (value - (own + crowding.get(name, own)) / 2.0, name, value)
                    for name, value in plain[:CANDIDATES]
                ),
                reverse=True,
            )[:k]
            found = answer.candidates[:CANDIDATES]
            assert [one.identity_id for one in found] == [name for _, name, _ in expected]
            assert [one.similarity for one in found] == [value for _, _, value in expected]
            assert [one.similarity_corrected for one in found] == pytest.approx(
                [value for value, _, _ in expected], abs=1e-6
            )
            assert [
                (one.identity_id, one.similarity_corrected) for one in answer.candidates[CANDIDATES:]
            ] == [(name, None) for name, _ in plain[CANDIDATES:k]]
            assert answer.threshold == pytest.approx(table.threshold(0.05, 400).value, abs=2e-3)
            assert answer.estimated_fpir == pytest.approx(table.fpir(expected[0][0], 400), rel=0.05, abs=1e-6)
            assert answer.decision is (decided(answer) if k > 1 else answer.decision)
            assert answer.is_exact
    assert gallery.thresholds().is_crowding_corrected


@pytest.mark.parametrize(
    "reason", ["off", "auto", "small", "no index", "filter", "mean", "threshold", "fixed"]
)
def test_crowding_is_left_alone_where_it_must_be(galleries: Galleries, reason: str) -> None:
    settings = {
        "off": RATED,
        "auto": GallerySettings(target_fpir=0.05),
        "fixed": GallerySettings(threshold=0.3, crowding=CrowdingCorrection.ON),
    }.get(reason, CORRECTED_SETTINGS)
    gallery = made(galleries, settings)
    fill(gallery, people(250 if reason == "small" else 350, 2))
    if reason != "no index":
        gallery.build(report_nothing)
    options = SearchOptions(
        fusion=Fusion.MEAN if reason == "mean" else Fusion.MAX,
        filter={"site": "tokyo"} if reason == "filter" else {},
    )
    requested = 0.4 if reason == "threshold" else None
    for answer in gallery.identify(people(5, 3), threshold=requested, options=options):
        assert answer.candidates
        assert all(one.similarity_corrected is None for one in answer.candidates)
        assert answer.estimated_fpir is not None
    is_of_gallery = reason not in {"filter", "mean", "threshold"}
    found = gallery.thresholds()
    assert found.is_crowding_corrected is not is_of_gallery
    assert any("crowding is ON" in text for text in found.warnings) is (
        reason in {"small", "no index", "fixed"}
    )


def test_crowding_is_corrected_unasked_where_the_calibration_says_that_it_is_better(tmp_path: Path) -> None:
    with opened(tmp_path / "data", calibration(is_crowding_better=True)) as galleries:
        gallery = made(galleries, GallerySettings(target_fpir=0.05))
        fill(gallery, people(350, 2))
        gallery.build(report_nothing)
        (answer,) = gallery.identify(people(1, 3))
        assert answer.candidates[0].similarity_corrected is not None
        gallery.update(crowding=CrowdingCorrection.OFF)
        assert gallery.identify(people(1, 3))[0].candidates[0].similarity_corrected is None
    with opened(tmp_path / "data", without(calibration(), CORRECTED)) as galleries:
        with pytest.raises(PreconditionError, match="corrected"):
            galleries.get("people").update(crowding=CrowdingCorrection.ON)
        assert galleries.get("people").identify(people(1, 3))[0].decision
