"""Log lines, redaction and counts."""

from __future__ import annotations

import io
import json
import logging
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from engine import logs
from engine.errors import SettingsError
from engine.logs import LOGGER, JsonFormatter, TextFormatter, configure_logging, redacted_traceback
from engine.open_set_types import Estimate, GalleryThresholds
from engine.telemetry import (
    REQUEST_ID_CHARACTERS_MAX,
    THRESHOLD_GALLERIES_MAX,
    RequestRecord,
    Telemetry,
)
from engine.types import EmbeddingContract, GalleryInfo, GallerySettings, ThresholdOrigin

SECRET = "Zaphod"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)


def flush() -> None:
    (handler,) = logging.getLogger().handlers
    handler.flush()


def text_of(stream: io.StringIO) -> str:
    """What was logged to it."""
    flush()
    return stream.getvalue()


def finished(telemetry: Telemetry, **fields: object) -> RequestRecord:
    record = telemetry.begin("GalleryService/GetGallery", "ipv4:127.0.0.1:9", is_stream=False)
    for name, value in fields.items():
        setattr(record, name, value)
    telemetry.end(record, is_stream=False)
    return record


def test_a_request_is_one_json_object_on_one_line() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    finished(Telemetry(), request_id="a\nb", code="NOT_FOUND", reason="GALLERY_NOT_FOUND")
    (text,) = text_of(stream).splitlines()
    line = json.loads(text)
    assert line.pop("time").endswith("Z")
    assert line.pop("latency_ms") >= 0
    assert line == {
        "level": "info",
        "event": "rpc",
        "rpc": "GalleryService/GetGallery",
        "code": "NOT_FOUND",
        "reason": "GALLERY_NOT_FOUND",
        "request_id": "a\nb",
        "peer": "ipv4:127.0.0.1:9",
    }


def test_on_a_terminal_a_request_is_one_readable_line_whatever_it_holds() -> None:
    stream = Terminal()
    configure_logging(stream)
    finished(Telemetry(), request_id="a\n\x1b[31mb c", stages_ms={"search": 1.25})
    (text,) = text_of(stream).splitlines()
    assert "rpc=GalleryService/GetGallery code=OK" in text
    assert r"request_id='a\n\x1b[31mb c'" in text
    assert text.endswith("search=1.25ms")


def test_time_of_a_stage_adds_up_and_counts_what_failed() -> None:
    record = RequestRecord("rpc", "peer")
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), record.stage("embed"):
            raise ValueError("inside")
    with record.stage("search"):
        pass
    assert list(record.stages_ms) == ["embed", "search"]
    assert all(value > 0 for value in record.stages_ms.values())
    assert record.latency_s() * 1e3 >= sum(record.stages_ms.values())


def test_a_long_request_id_is_cut_and_what_is_not_known_is_left_out() -> None:
    record = RequestRecord("rpc", "peer")
    record.request_id = "x" * 10_000
    assert record.fields()["request_id"] == "x" * REQUEST_ID_CHARACTERS_MAX
    assert "gallery" not in record.fields()
    record.gallery = "people"
    assert record.fields()["gallery"] == "people"


def test_a_traceback_names_places_and_classes_but_not_what_errors_say() -> None:
    def fail() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"not {SECRET}") from error

    with pytest.raises(ValueError, match=SECRET) as caught:
        fail()
    for formatter in (JsonFormatter(), TextFormatter()):
        record = LOGGER.makeRecord("identiface", logging.ERROR, "", 0, "internal error", (), None)
        record.exc_info = (type(caught.value), caught.value, caught.value.__traceback__)
        text = formatter.format(record)
        assert SECRET not in text.replace("{SECRET}", "")
        assert text.index("builtins.KeyError") < text.index("builtins.ValueError")
        assert "in fail" in text


def test_a_traceback_of_errors_that_cause_each_other_ends() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    assert redacted_traceback(one).splitlines() == ["builtins.KeyError", "builtins.ValueError"]


def test_a_log_whose_reader_is_gone_does_not_disturb_requests(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure_logging(stream)
    stream.close()
    finished(Telemetry())
    flush()
    assert capsys.readouterr().err == ""


def test_counts_follow_requests_and_streams() -> None:
    telemetry = Telemetry()
    value = telemetry.registry.get_sample_value
    record = telemetry.begin("EnrollmentService/EnrollStream", "peer", is_stream=True)
    finished(telemetry)
    assert value("identiface_requests_in_flight") == 1
    assert value("identiface_streams_open") == 1
    telemetry.end(record, is_stream=True)
    assert value("identiface_requests_in_flight") == 0
    assert value("identiface_streams_open") == 0
    labels = {"rpc": "EnrollmentService/EnrollStream", "code": "OK"}
    assert value("identiface_requests_total", labels) == 1
    assert value("identiface_request_latency_seconds_count", {"rpc": "GalleryService/GetGallery"}) == 1


def test_metrics_are_served_with_the_galleries_of_the_moment() -> None:
    telemetry = Telemetry()
    galleries: list[GalleryInfo] = []
    telemetry.watch_galleries(lambda: galleries)
    telemetry.set_device("cpu", "dlib-resnet")
    port, stop = telemetry.serve_metrics("127.0.0.1", 0)
    try:
        contract = EmbeddingContract("x", "", "", mirror=False, dimension=2)
        galleries.append(GalleryInfo("people", contract, GallerySettings(), 3, 4, 5, 6.0))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        with pytest.raises(SettingsError, match="metrics_listen"):
            Telemetry().serve_metrics("127.0.0.1", port)
    finally:
        stop()
    assert 'identiface_gallery_identities{gallery="people"} 3.0' in lines
    assert 'identiface_gallery_templates{gallery="people"} 4.0' in lines
    assert 'identiface_device_info{device="cpu",model="dlib-resnet"} 1.0' in lines


def test_the_log_goes_to_stdout_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    LOGGER.info("serving")
    flush()
    assert json.loads(capsys.readouterr().out)["event"] == "serving"


class Stuck(io.StringIO):
    """A log whose reader does not read for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        assert self.is_read.wait(60)
        return super().write(text)


def test_a_log_that_cannot_be_written_holds_up_nobody_and_says_what_it_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "LINES_WAITING_MAX", 4)
    stream = Stuck()
    configure_logging(stream)
    for number in range(10):
        LOGGER.info("line %d", number)
    stream.is_read.set()
    flush()
    LOGGER.info("later")
    lines = [json.loads(line) for line in text_of(stream).splitlines()]
    kept, (lost, later) = lines[:-2], lines[-2:]
    assert [line["event"] for line in kept] == [f"line {number}" for number in range(len(kept))]
    assert lost["level"] == "warning"
    assert lost["num_lines"] == 10 - len(kept) >= 5
    assert later["event"] == "later"


def test_the_end_of_a_process_does_not_wait_for_ever_for_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stuck()
    configure_logging(stream)
    LOGGER.info("line")
    with monkeypatch.context() as patch:
        patch.setattr(logs, "FLUSH_S_MAX", 0.01)
        flush()
    assert stream.getvalue() == ""
    stream.is_read.set()
    assert "line" in text_of(stream)


def test_lines_name_their_process_where_there_are_several() -> None:
    stream, terminal = io.StringIO(), Terminal()
    configure_logging(stream, worker="embed-0")
    LOGGER.info("serving")
    assert json.loads(text_of(stream))["worker"] == "embed-0"
    configure_logging(terminal, worker="embed-0")
    LOGGER.info("serving")
    assert "worker=embed-0 serving" in text_of(terminal)


def test_a_process_that_is_asked_by_another_counts_without_lines() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    telemetry = Telemetry(has_lines=False)
    finished(telemetry)
    assert text_of(stream) == ""
    labels = {"rpc": "GalleryService/GetGallery", "code": "OK"}
    assert telemetry.registry.get_sample_value("identiface_requests_total", labels) == 1.0


def test_thresholds_are_shown_of_so_many_galleries_and_no_more() -> None:
    telemetry = Telemetry()
    asked: list[int] = []

    def found() -> Iterator[tuple[str, GalleryThresholds, bool]]:
        for number in range(THRESHOLD_GALLERIES_MAX + 5):
            asked.append(number)
            value = 0.5 + number / 1000
            thresholds = GalleryThresholds(
                value,
                ThresholdOrigin.CALIBRATION,
                10.0,
                Estimate(value, value, value) if number != 3 else None,
                target_fpir=0.01,
                warnings=("one",),
            )
            yield f"g{number:03d}", thresholds, number == 1

    telemetry.watch_thresholds(found)
    asked.clear()
    value = telemetry.registry.get_sample_value
    assert value("identiface_gallery_threshold", {"gallery": "g002"}) == 0.502
    assert value("identiface_gallery_target_fpir", {"gallery": "g002"}) == 0.01
    assert value("identiface_gallery_threshold_warnings", {"gallery": "g002"}) == 1
    assert value("identiface_gallery_threshold_known", {"gallery": "g002"}) == 1
    # Its calibration is gone: there is something to alert on, and no figure that looks like a threshold.
    assert value("identiface_gallery_threshold_known", {"gallery": "g003"}) == 0
    assert value("identiface_gallery_threshold", {"gallery": "g003"}) is None
    for number, expected in ((1, 1.0), (2, 0.0)):
        labels = {"gallery": f"g{number:03d}"}
        assert value("identiface_gallery_own_people_disagree", labels) == expected
    assert value("identiface_gallery_threshold", {"gallery": f"g{THRESHOLD_GALLERIES_MAX:03d}"}) is None
    assert max(asked) == THRESHOLD_GALLERIES_MAX - 1
