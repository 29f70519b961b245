"""What the metrics are told of thresholds: also where a calibration is gone, and at nobody else's cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine.decision.calibration import Calibration
from engine.galleries import Galleries, GalleriesSettings
from engine.server.backend import Backend
from engine.telemetry import Telemetry
from engine.types import GallerySettings
from tests.calibrations import CONTRACT, calibration

RATED = GallerySettings(target_fpir=0.05)


@contextlib.contextmanager
def opened(data: Path, calibrated: Calibration | None, num_open_max: int = 256) -> Iterator[Galleries]:
    known = {} if calibrated is None else {calibrated.contract_digest: calibrated}
    settings = GalleriesSettings(maintenance_s=0, open_galleries_max=num_open_max)
    with contextlib.closing(Galleries.open(data, settings, calibrations=known)) as galleries:
        yield galleries


def known(galleries: Galleries, *gallery_ids: str) -> list[float | None]:
    """What the metrics say of whether these galleries' thresholds are known; None: nothing."""
    telemetry = Telemetry()
    telemetry.watch_thresholds(Backend(galleries).thresholds)
    value = telemetry.registry.get_sample_value
    return [value("identiface_gallery_threshold_known", {"gallery": name}) for name in gallery_ids]


def test_a_gallery_whose_calibration_is_gone_is_shown_as_such(tmp_path: Path) -> None:
    with opened(tmp_path, calibration()) as galleries:
        assert known(galleries, "rated") == [None]
        galleries.create("rated", CONTRACT, RATED)
        galleries.create("fixed", CONTRACT)
        assert known(galleries, "rated", "fixed") == [1.0, None]
    with opened(tmp_path, None) as galleries:
        assert known(galleries, "rated", "fixed") == [0.0, None]
        (told,) = list(Backend(galleries).thresholds())
        assert (told[1].estimate, told[1].target_fpir) == (None, 0.05)


def test_no_gallery_is_closed_for_another_to_be_shown(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    with opened(tmp_path, calibration(), num_open_max=2) as galleries:
        for name in names:
            galleries.create(name, CONTRACT, RATED)
        used = galleries.get("b"), galleries.get("c")
        for _ in range(2):
            assert known(galleries, *names) == [None, 1.0, 1.0]
            assert used == tuple(map(galleries.get_where_it_fits, names[1:]))
        # Looking at one is not using it: "b" is still the one that was used least recently.
        galleries.get("a")
        assert known(galleries, *names) == [1.0, None, 1.0]
        galleries.delete("c")
        assert known(galleries, *names) == [1.0, 1.0, None]
