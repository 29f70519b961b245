"""Exit codes and the one line on stderr."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from engine.cli import INTERRUPTED
from engine.cli import verbs as cli
from engine.errors import DeadlineError, EngineError, GalleryNotFoundError, InvalidInputError

CLOSED = "127.0.0.1:1"


def answer_raising(error: BaseException) -> int:
    """Run a verb that raises."""

    def fail(arguments: argparse.Namespace) -> None:
        raise error

    return cli.answer(argparse.Namespace(verb="status", run=fail))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (EngineError("broken", hint="Mend it."), "identiface: broken. Mend it.\n"),
        (EngineError("two\nlines.", hint="Mend it."), "identiface: two lines. Mend it.\n"),
        (InvalidInputError("k is 0"), "identiface: k is 0.\n"),
        (InvalidInputError("k is 0", hint="Ask for more."), "identiface: k is 0. Ask for more.\n"),
    ],
)
def test_an_engines_error_is_one_line_and_1(
    error: EngineError, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer_raising(error) == 1
    assert capsys.readouterr() == ("", line)


def test_hints_speak_of_verbs_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    answer_raising(GalleryNotFoundError("no gallery 'x'"))
    assert "identiface gallery list" in capsys.readouterr().err
    answer_raising(DeadlineError("too late"))
    assert "--timeout-s" in capsys.readouterr().err


def test_a_bug_is_one_line_with_its_place_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_raising(KeyError("x")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected KeyError in" in err
    assert "test_main.py:" in err


def test_ctrl_c_is_quiet_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_while_the_verbs_load_is_quiet_and_130() -> None:
    script = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'engine.cli.arguments':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['identiface', 'status']\n"
        "import runpy; runpy.run_module('engine.cli', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_nobody_answering_is_one_line_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--server", CLOSED, "--timeout-s", "0.3"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"identiface: no server answers at {CLOSED}. ")
    assert err.count("\n") == 1


def test_on_a_terminal_waiting_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["status", "--server", CLOSED, "--timeout-s", "0.3"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"waiting for {CLOSED} ..."
    assert second.startswith(f"identiface: no server answers at {CLOSED}. ")


def test_help_says_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for code in (cli.ANSWERED, cli.FAILED, cli.WRONG_USAGE, INTERRUPTED):
        assert f"{code} " in out[out.index("exit codes:") :]


def test_a_reader_that_has_enough_is_no_error() -> None:
    script = (
        "import argparse, sys; from engine.cli import verbs\n"
        "from engine.cli.layout import print_lines\n"
        "def flood(arguments):\n"
        "    while True: print_lines(['x' * 1000])\n"
        "sys.exit(verbs.answer(argparse.Namespace(verb='list', run=flood)))\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_light_verbs_load_no_heavy_library() -> None:
    script = (
        "import sys, engine.cli.verbs; engine.cli.verbs.build_parser()\n"
        "print(*(m for m in sys.argv[1:] if m in sys.modules))"
    )
    heavy = ["torch", "cv2", "PIL", "faiss", "lmdb", "engine.server", "engine.embedding", "engine.trainer"]
    out = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_drawing_loads_no_torch() -> None:
    script = (
        "import sys, engine.embedding.draw, engine.embedding.images\n"
        "print(*(m for m in ('torch', 'cv2', 'faiss') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("identiface 0.")
