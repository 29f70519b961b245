"""All verbs under one parser, their exit codes and one-line errors. Knows no part of the engine."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from engine import __version__
from engine.cli import INTERRUPTED, serve
from engine.cli.arguments import Parser, UsageError, one_line
from engine.errors import (
    DeadlineError,
    EngineError,
    GalleryNotFoundError,
    IdentityNotFoundError,
    InvalidIdError,
    InvalidInputError,
    NoEmbedderError,
    NoFaceError,
    SettingsError,
    TemplateLimitError,
    TemplateNotFoundError,
)

ANSWERED, FAILED, WRONG_USAGE = 0, 1, 2
"""Exit codes: no match is an answer, too."""

_EPILOG = """\
exit codes: 0 answered (NO_MATCH is an answer), 1 failed, with one line on stderr, 2 wrong usage,
130 ended by Ctrl-C; `serve` answers Ctrl-C by stopping in good order, with 0

example:
  identiface serve --data faces &
  identiface gallery create staff
  identiface enroll staff ada ada.jpg
  identiface identify staff group.jpg --face all --plot who.png
"""

_HINTS: dict[type[EngineError], str] = {
    # The errors' own hints speak to programs that call rpcs; these speak of verbs and flags.
    GalleryNotFoundError: "`identiface gallery list` lists galleries, `identiface gallery create` makes one.",
    IdentityNotFoundError: "`identiface list GALLERY` lists who is enrolled.",
    TemplateNotFoundError: "`identiface list GALLERY` lists the ids of templates.",
    NoFaceError: "Choose a picture with a larger or clearer face, or lower --min-face-px.",
    TemplateLimitError: "Remove templates, or enroll with --replace or --evict.",
    NoEmbedderError: "Start the server with a --model to send it pictures.",
    DeadlineError: "Allow more with --timeout-s; a write may have been made: look before you repeat it.",
    # Their messages say all that is to be done.
    InvalidIdError: "",
    InvalidInputError: "",
    SettingsError: "",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises SystemExit with 2 for wrong usage and 0 after --help."""
    _open_output()
    given = sys.argv[1:] if argv is None else argv
    return answer(build_parser(is_for_serve=list(given[:1]) == ["serve"]).parse_args(given))


def answer(arguments: argparse.Namespace) -> int:
    """Run the verb that arguments name in `run`; returns the exit code, whatever is raised."""
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(f"{error}; see identiface {_path(arguments)} --help", WRONG_USAGE)
    except EngineError as error:
        return _complain(_sentence(error), FAILED)
    except BrokenPipeError:
        # Whoever read our output has enough; without this Python complains once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ANSWERED
    except KeyboardInterrupt:
        return INTERRUPTED
    # The boundary: a person gets one line and the place, never a traceback.
    except Exception as bug:  # noqa: BLE001
        place = traceback.extract_tb(bug.__traceback__)[-1]
        what = f"unexpected {type(bug).__name__} in {place.filename}:{place.lineno}: {bug}"
        return _complain(f"{what}. {EngineError.hint}", FAILED)
    return ANSWERED


def build_parser(*, is_for_serve: bool = False) -> Parser:
    """Make the parser of all verbs, or of `serve` alone, which need not wait for what the others import."""
    parser = Parser(
        prog="identiface",
        description="Who is in this picture, against N enrolled people, on your own machines.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"identiface {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    serve.add_verbs(verbs)
    if not is_for_serve:
        from engine.cli import (
            admin,
            calibrate,
            capture,
            check,
            enrolled,
            evaluate,
            export,
            faces,
            galleries,
            index,
            project,
            reembed,
            train,
        )

        loading = (galleries, enrolled, faces, admin, index, reembed, export, check, capture)
        for module in (*loading, evaluate, calibrate, train, project):
            module.add_verbs(verbs)
    return parser


def _path(arguments: argparse.Namespace) -> str:
    """The verb and the one below it, as they were typed."""
    below = vars(arguments).get(f"{arguments.verb}_verb")
    return f"{arguments.verb} {below}" if below else str(arguments.verb)


def _sentence(error: EngineError) -> str:
    """Say what went wrong and what to do, in terms of this command where the hint is a program's."""
    hint = error.hint
    if hint == type(error).hint:
        hint = _HINTS.get(type(error), hint)
    return f"{error.message.rstrip('. ')}. {hint}".rstrip()


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"identiface: {one_line(message)}\n")
    return code


def _open_output() -> None:
    """Let names in any script be printed: what a terminal cannot show is escaped instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
