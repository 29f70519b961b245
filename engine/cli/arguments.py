"""What the verbs have in common: the parser, the types of arguments, the options of a server's verbs.

Knows no verb. Imports no network, and neither gRPC nor numpy: `serve` passes through here, too, and its
parent of workers does without them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from engine.errors import InvalidIdError
from engine.wire.address import DEFAULT_ADDRESS, PORT_MAX, can_be_dialled
from engine.wire.limits import FACE_PX_MIN, TIMEOUT_S

SERVER_VARIABLE = "IDENTIFACE_SERVER"


class UsageError(Exception):
    """A combination of arguments that can never work, found after they were parsed."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, and which takes no abbreviations."""

    def __init__(self, *args: object, **kwargs: object):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, and remember what was given for a complaint about it."""
        self._given = [] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and exit with 2."""
        is_short = any(text != "-h" and re.match(r"-[^-]", text) for text in getattr(self, "_given", ()))
        if is_short and message.startswith(("unrecognized arguments", "the following arguments")):
            message += "; put -- before a name that begins with -"
        sys.stderr.write(f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")
        raise SystemExit(2)


Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What verbs are added to."""


def one_line(text: str) -> str:
    """Bring text to one printable line: control characters and undecoded bytes of file names are escaped."""
    return "".join(
        char if char.isprintable() else " " if char in "\n\t" else ascii(char)[1:-1] for char in text
    )


def add_server_options(parser: argparse.ArgumentParser, *, has_json: bool = True) -> None:
    """Add the options of every verb that asks a server."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=address,
        default=os.environ.get(SERVER_VARIABLE) or DEFAULT_ADDRESS,
        help=f"server to ask (default: {SERVER_VARIABLE} of the environment, else {DEFAULT_ADDRESS})",
    )
    add_timeout_option(parser)
    if has_json:
        add_json_option(parser)


def add_timeout_option(parser: argparse.ArgumentParser) -> None:
    """Add how long a server may take."""
    parser.add_argument(
        "--timeout-s",
        metavar="SECONDS",
        type=seconds,
        default=TIMEOUT_S,
        help=f"time allowed for each call to a server, in seconds (default: {TIMEOUT_S:g})",
    )


def add_folder_or_server(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Add where the galleries are: a data folder or a server; not required, it is that of every verb."""
    place = parser.add_mutually_exclusive_group(required=is_required)
    place.add_argument("--data", metavar="FOLDER", type=Path, help="data folder, while no server holds it")
    place.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=address,
        default=None if is_required else os.environ.get(SERVER_VARIABLE) or DEFAULT_ADDRESS,
        help="a server that runs"
        + (
            "" if is_required else f" (default: {SERVER_VARIABLE} of the environment, else {DEFAULT_ADDRESS})"
        ),
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json, which every verb has."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_face_options(parser: argparse.ArgumentParser, choices: tuple[str, ...], default: str) -> None:
    """Add which of a picture's faces is meant and how small it may be."""
    parser.add_argument(
        "--face",
        choices=choices,
        default=default,
        help=f"which of a picture's faces is meant (default: {default})",
    )
    parser.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        help=f"size of face at which the search starts, in pixels of its box's side, {FACE_PX_MIN} or more;"
        " boxes may come out down to about half of it; smaller takes longer and finds more that is none"
        " (default: the server's setting, 40)",
    )


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add how faces of labelled people's pictures are found and embedded on this machine."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the network runs; auto takes CUDA where it is (default: auto)",
    )
    parser.add_argument(
        "--face",
        choices=("centre", "largest"),
        default="centre",
        help="which of a picture's faces is meant (default: centre, the rule of LFW)",
    )
    parser.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        help=f"size of face at which the search starts, in pixels of its box's side, {FACE_PX_MIN} or more;"
        " boxes may come out down to about half of it (default: 70, for LFW's pictures)",
    )


def address(text: str) -> str:
    """Take HOST:PORT."""
    if not can_be_dialled(text):
        raise argparse.ArgumentTypeError(
            f"expected HOST:PORT with a port up to {PORT_MAX}, for example {DEFAULT_ADDRESS}, not {text!r}"
        )
    return text


def name(text: str) -> str:
    """Take a name as it is typed: brought to NFC form, in which the engine keeps names."""
    try:
        # Bytes that the locale cannot read arrive as surrogates, whatever encoding they were typed in.
        text = os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8") from error
    return unicodedata.normalize("NFC", text)


def gallery_name(text: str) -> str:
    """Take what a gallery or an alias may be called."""
    from engine.rules import GALLERY_ID

    text = name(text)
    if not GALLERY_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "expected 1 to 63 lower-case letters, digits, - and _, beginning with a letter or digit, not"
            f" {text[:80]!r}"
        )
    return text


def identity_name(text: str) -> str:
    """Take what an identity may be called."""
    from engine.rules import check_identity_id

    text = name(text)
    try:
        check_identity_id(text)
    except InvalidIdError as error:
        raise argparse.ArgumentTypeError(error.message.replace("identity_id", "the identity", 1)) from error
    return text


def attribute(text: str) -> tuple[str, str]:
    """Take KEY=VALUE."""
    key, equals, value = name(text).partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, not {text!r}")
    return key, value


def face_px(text: str) -> int:
    """Take the smallest face to look for."""
    return whole(text, FACE_PX_MIN, 2**31 - 1)


def whole(text: str, smallest: int, largest: int) -> int:
    """Take a whole number in a range."""
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if not smallest <= number <= largest:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {smallest} to {largest}, not {text!r}"
        )
    return number


def seed(text: str) -> int:
    """Take the seed of draws."""
    return whole(text, 0, 2**63 - 1)


def share(text: str) -> float:
    """Take a share between 0 and 1, both excluded."""
    return _number(text, lambda number: 0.0 < number < 1.0, "a share between 0 and 1")


def candidates(text: str) -> int:
    """Take a number of candidates."""
    from engine.limits import K_MAX

    return whole(text, 1, K_MAX)


def template_id(text: str) -> int:
    """Take the id of a template."""
    return whole(text, 1, 2**64 - 1)


def similarity(text: str) -> float:
    """Take a similarity from -1 to 1."""
    return _number(text, lambda number: -1.0 <= number <= 1.0, "a similarity from -1 to 1")


def similarity_difference(text: str) -> float:
    """Take how far apart two similarities are."""
    return _number(text, lambda number: 0.0 <= number <= 2.0, "a difference of similarities from 0 to 2")


def rate(text: str) -> float:
    """Take a share of strangers, more than 0 and less than 1."""
    expected = "a share of strangers, more than 0 and less than 1, for example 0.001"
    return _number(text, lambda number: 0.0 < number < 1.0, expected)


def _number(text: str, is_right: Callable[[float], bool], expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not is_right(number):
        raise argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")
    return number


def seconds(text: str) -> float:
    """Take a time in seconds, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1e7:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, not {text!r}")
    return number


def png(text: str) -> Path:
    """Take the path of a PNG file to write."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"expected the name of a .png file, not {text!r}")
    return Path(text)


def npy(text: str) -> Path:
    """Take the path of an npy file to write."""
    if not text.lower().endswith(".npy"):
        raise argparse.ArgumentTypeError(f"expected the name of a .npy file, not {text!r}")
    return Path(text)
