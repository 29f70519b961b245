"""The verbs' flags are frozen; help shows an example; what arguments are turned into."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator

import msgspec
import pytest

from engine.cli import main
from engine.cli.arguments import SERVER_VARIABLE, one_line
from engine.cli.verbs import build_parser
from engine.config import Settings
from engine.server.settings import ServeSettings

SERVER = {"--server", "--timeout-s", "--json", "--help"}
FACE = {"--face", "--min-face-px"}
EVALUATE = {
    "--root",
    "--vectors",
    "--labels",
    "--model",
    "--device",
    "--errata",
    "--groups",
    "--plots",
    "--resamples",
    "--seed",
    "--json",
    "--help",
    *FACE,
}
SETTINGS = {
    "--threshold",
    "--target-fpir",
    "--review-fpir",
    "--ambiguity",
    "--target-fmr",
    "--crowding",
    "--templates-max",
    "--probe-statistics",
    "--no-probe-statistics",
}
FLAGS = {
    "serve": {
        "--data",
        "--listen",
        "--port-file",
        "--insecure",
        "--model",
        "--device",
        "--calibration",
        "--min-face-px",
        "--metrics-listen",
        "--workers",
        "--embed-workers",
        "--config",
        "--help",
    },
    "gallery create": {
        "--dimension",
        "--contract",
        "--keep-crops",
        *SETTINGS,
        *SERVER,
    },
    "gallery list": SERVER,
    "gallery show": SERVER,
    "gallery update": {
        "--clear-threshold",
        "--clear-target-fpir",
        "--clear-review-fpir",
        "--clear-target-fmr",
        *SETTINGS,
        *SERVER,
    },
    "gallery delete": SERVER,
    "gallery alias": {"--delete", *SERVER},
    "enroll": {"--attribute", "--replace", "--evict", *FACE, *SERVER},
    "remove": {"--template", "--erase", *SERVER},
    "list": SERVER,
    "identify": {"--k", "--threshold", "--plot", "--exact", "--filter", "--fusion", *FACE, *SERVER},
    "verify": {"--pictures", "--threshold", *FACE, *SERVER},
    "detect": {"--plot", *FACE, *SERVER},
    "embed": {"--out", *FACE, *SERVER},
    "status": SERVER,
    "build": SERVER,
    "recall": {"--probes", "--seed", *SERVER},
    "capture": {"--identity", "--every-s", "--faces-max", "--camera", "--json", "--help", *FACE},
    "export": {"--data", "--overwrite", *SERVER},
    "check": {
        "--data",
        "--duplicate-similarity",
        "--calibration",
        "--probes",
        "--seed",
        "--limit",
        "--html",
        "--csv",
        "--overwrite",
        *SERVER,
    },
    "index run": {
        "--gallery",
        "--ids",
        "--images",
        "--labels",
        "--replace",
        "--replan",
        "--verify",
        "--runner",
        "--workers",
        "--model",
        "--device",
        "--keep-crops",
        "--gate",
        "--normalize",
        "--contract",
        "--threshold",
        "--data",
        "--jobs",
        *SERVER,
    },
    "index status": {"--data", "--server", "--jobs", "--json", "--help"},
    "index report": {"--data", "--server", "--jobs", "--json", "--help"},
    "reembed": {
        "--to",
        "--data",
        "--model",
        "--device",
        "--threshold",
        "--report",
        "--alias",
        "--allow-missing",
        *SERVER,
    },
    "train run": {
        "--data",
        "--images",
        "--labels",
        "--people",
        "--validate-people",
        "--errata",
        "--crops",
        "--recipe",
        "--set",
        "--settings",
        "--device",
        "--threads",
        "--workers",
        "--stop-after-s",
        "--json",
        "--help",
        *FACE,
    },
    "train export": {"--to", "--onnx", "--threshold", "--mirror", "--no-mirror", "--help"},
    "project": {
        "--model",
        "--data",
        "--to",
        "--dimension",
        "--method",
        "--held-out",
        "--threshold",
        "--seed",
        "--overwrite",
        "--device",
        "--json",
        "--help",
        *FACE,
    },
    "calibrate": {
        "--data",
        "--vectors",
        "--gallery",
        "--labels",
        "--model",
        "--device",
        "--only",
        "--same",
        "--keep",
        "--attributes",
        "--people",
        "--target-fpir",
        "--size",
        "--out",
        "--resamples",
        "--seed",
        *FACE,
        *SERVER,
    },
    "evaluate pairs": {"--pairs", "--videos", "--video", "--frames", *EVALUATE},
    "evaluate identification": EVALUATE,
    "evaluate open-set": {"--enrolled", "--strangers", "--fpir", *EVALUATE},
}
"""A new flag is a promise to keep: add it here when it is decided."""


def parsers(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All verbs that do something, with their parsers."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path, parser
    for group in groups:
        for verb, below in group.choices.items():
            yield from parsers(below, f"{path} {verb}".strip())


VERBS = dict(parsers(build_parser()))


def test_verbs_and_flags_are_those_decided() -> None:
    found = {
        path: {option for action in parser._actions for option in action.option_strings if option[:2] == "--"}
        for path, parser in VERBS.items()
    }
    assert found == FLAGS


@pytest.mark.parametrize("path", FLAGS)
def test_every_flag_and_argument_is_explained(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in VERBS[path]._actions:
        assert action.help, action.dest
    with pytest.raises(SystemExit) as ended:
        main([*path.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: identiface {path}")


PLAIN = {"gallery list", "gallery show", "gallery delete", "status"}


@pytest.mark.parametrize("path", sorted(set(FLAGS) - PLAIN))
def test_verbs_with_arguments_show_an_example(path: str) -> None:
    assert f"  identiface {path} " in (VERBS[path].epilog or "")


def test_a_name_that_begins_with_a_dash_stands_behind_two() -> None:
    arguments = build_parser().parse_args(["enroll", "staff", "--", "-ada", "a.jpg"])
    assert (arguments.identity, arguments.pictures) == ("-ada", ["a.jpg"])


def settings_keys(kind: type[Settings], path: str = "") -> Iterator[tuple[str, set[str]]]:
    """All tables of settings, with their keys that are no tables."""
    fields = msgspec.structs.fields(kind)
    tables = {field.encode_name: field.type for field in fields if isinstance(field.type, type)}
    tables = {name: below for name, below in tables.items() if issubclass(below, Settings)}
    if keys := {field.encode_name for field in fields} - set(tables):
        yield path, keys
    for name, below in tables.items():
        yield from settings_keys(below, f"{path}.{name}".strip("."))


def test_help_of_serve_lists_every_key_of_the_settings_file() -> None:
    from engine.embedding.pipeline import PipelineSettings
    from engine.galleries import GalleriesSettings

    expected = (
        dict(settings_keys(ServeSettings))
        | dict(settings_keys(PipelineSettings, "embedding.pipeline"))
        | dict(settings_keys(GalleriesSettings, "galleries"))
    )
    # Tables by themselves.
    expected["embedding"] -= {"pipeline"}
    expected[""] -= {"galleries"}
    listed = (VERBS["serve"].epilog or "").partition("flags win over it:")[2].partition("\n\n")[0]
    found = re.findall(r"^  (?:\[([\w.]+)\]|\(above all tables\))  (.+(?:\n      .+)*)", listed, re.MULTILINE)
    assert {table: set(re.split(r",\s+", keys)) for table, keys in found} == expected


def test_names_are_taken_in_nfc_and_refused_where_no_text() -> None:
    parser = build_parser()
    composed, decomposed = "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}", "Zoe\N{COMBINING DIAERESIS}"
    assert parser.parse_args(["remove", "staff", decomposed]).identity == composed
    assert parser.parse_args(["remove", "staff", os.fsdecode("山田".encode())]).identity == "山田"
    with pytest.raises(SystemExit):
        parser.parse_args(["remove", "staff", os.fsdecode(b"\xff")])


def test_paths_are_left_as_they_are() -> None:
    path = "Zoe\N{COMBINING DIAERESIS}.jpg"
    parser = build_parser()
    assert parser.parse_args(["identify", "staff", path]).pictures == [path]
    assert parser.parse_args(["verify", "staff", "zoe", path]).claim[2] == path


def test_the_server_comes_from_the_environment_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "10.0.0.1:80")
    assert build_parser().parse_args(["status"]).server == "10.0.0.1:80"
    assert build_parser().parse_args(["status", "--server", "[::1]:7300"]).server == "[::1]:7300"
    monkeypatch.delenv(SERVER_VARIABLE)
    assert build_parser().parse_args(["status"]).server == "127.0.0.1:7300"
    monkeypatch.setenv(SERVER_VARIABLE, "nowhere")
    with pytest.raises(SystemExit):
        build_parser().parse_args(["status"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("山田 é", "山田 é"),
        ("two\nlines\tand tab", "two lines and tab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff", "\\udcff"),
        ("right\N{RIGHT-TO-LEFT OVERRIDE}left", "right\\u202eleft"),
    ],
)
def test_what_is_said_is_one_printable_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
