"""The verbs `identify`, `verify`, `detect` and `embed`: what pictures show. Knows nothing of enrolling."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.cli import output
from engine.cli.arguments import (
    UsageError,
    Verbs,
    add_face_options,
    add_server_options,
    attribute,
    candidates,
    gallery_name,
    identity_name,
    npy,
    png,
    similarity,
)
from engine.cli.connection import open_client
from engine.cli.layout import print_json, print_lines
from engine.cli.pictures import (
    STDIN,
    Asked,
    PictureFile,
    add_pictures,
    ask_each,
    find_pictures,
    name_items,
    total_failure,
)
from engine.client import Client, FaceIdentification, Picture
from engine.errors import EngineError, InvalidInputError
from engine.types import EmbeddedFace, Face, FaceChoice, Fusion, Vector

if TYPE_CHECKING:
    from engine.embedding.draw import Label

T = TypeVar("T")
FACES = ("centre", "largest", "all")
CANDIDATES = 5

_IDENTIFY = """\
Candidates below the threshold are shown in brackets: they are there to be looked at. NO_MATCH is an answer;
REVIEW, of a gallery with --review-fpir or --ambiguity, is one for a person to look at. How many strangers
would come as near is of one face, and says how alike strangers are, not how sure the answer is.
With --json, several pictures give one object a line.

example:
  identiface identify staff group.jpg --face all --plot who.png
  identiface identify staff door.jpg --filter site=berlin --exact
  curl -s https://example.org/door.jpg | identiface identify staff - --json
"""
_VERIFY = """\
example:
  identiface verify staff ada door.jpg
  identiface verify --pictures passport.jpg selfie.jpg
"""
_DETECT = """\
example:
  identiface detect group.jpg --min-face-px 20 --plot faces.png
"""
_EMBED = """\
With --json and without --out, the vectors are printed.

example:
  identiface embed photos/ --out photos.npy --json > photos.jsonl    row by row what and where
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    _add_identify(verbs)
    _add_verify(verbs)
    detect = verbs.add_parser(
        "detect", help="find faces", description="Find the faces of pictures.", epilog=_DETECT
    )
    add_pictures(detect)
    add_face_options(detect, FACES, "all")
    _add_plot(detect)
    detect.set_defaults(run=_detect)
    add_server_options(detect)
    embed = verbs.add_parser(
        "embed",
        help="make templates without enrolling them",
        description="Find the faces of pictures and make their templates.",
        epilog=_EMBED,
    )
    add_pictures(embed)
    add_face_options(embed, FACES, "all")
    embed.add_argument(
        "--out",
        metavar="FILE.npy",
        type=npy,
        help="write all templates to this file: float32, a row of unit length for each face",
    )
    embed.set_defaults(run=_embed)
    add_server_options(embed)


def _add_identify(verbs: Verbs) -> None:
    identify = verbs.add_parser(
        "identify",
        help="ask who is in a picture",
        description="Ask who is in a picture.",
        epilog=_IDENTIFY,
    )
    identify.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    add_pictures(identify)
    identify.add_argument(
        "--k",
        metavar="NUMBER",
        type=candidates,
        default=CANDIDATES,
        help=f"candidates to show for each face, 1 to 100 (default: {CANDIDATES})",
    )
    _add_threshold(identify)
    _add_search_options(identify)
    add_face_options(identify, FACES, "largest")
    _add_plot(identify)
    identify.set_defaults(run=_identify)
    add_server_options(identify)


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exact",
        action="store_true",
        help="prove the candidates to be those of an exact scan; takes longer in a large gallery",
    )
    parser.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        type=attribute,
        action="append",
        default=[],
        help="only identities with this attribute are candidates; given several times, all must hold",
    )
    parser.add_argument(
        "--fusion",
        choices=tuple(fusion.value for fusion in Fusion),
        default=Fusion.MAX.value,
        help="what an identity's similarity is: that of its best template, or the mean over all of its"
        " templates, which needs a threshold of its own (default: max)",
    )


def _add_verify(verbs: Verbs) -> None:
    verify = verbs.add_parser(
        "verify",
        help="ask whether a picture shows a claimed person",
        description="Ask whether a picture shows a claimed person, or two pictures show one person.",
        usage="identiface verify [options] GALLERY IDENTITY PICTURE\n"
        "       identiface verify [options] --pictures PICTURE PICTURE",
        epilog=_VERIFY,
    )
    verify.add_argument("claim", metavar="GALLERY IDENTITY PICTURE", nargs="*", help="the claim")
    verify.add_argument(
        "--pictures", metavar="PICTURE", nargs=2, help="compare two pictures; nobody needs to be enrolled"
    )
    _add_threshold(verify)
    add_face_options(verify, ("centre", "largest"), "largest")
    verify.set_defaults(run=_verify)
    add_server_options(verify)


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        metavar="SIMILARITY",
        type=similarity,
        help="accept at or above this cosine, -1 to 1; lower accepts more strangers (default: the gallery's)",
    )


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        type=png,
        help="draw the answer on the picture and write it to this file",
    )


def _identify(arguments: argparse.Namespace) -> None:
    def show(asked: Asked[list[FaceIdentification]], faces: list[FaceIdentification]) -> None:
        if arguments.json:
            print_json({"picture": asked.file.name} | output.identification_json(faces))
        else:
            print_lines(output.identification_lines(asked.file.name, faces))
        _plot(
            arguments,
            asked,
            [
                (face.face, output.identification_label(face), face.decision.value == "MATCH")
                for face in faces
                if face.face is not None
            ],
        )

    if len(dict(arguments.filter)) < len(arguments.filter):
        raise UsageError("--filter names an attribute twice: an identity has one value of each")
    files = _find_pictures(arguments)
    with open_client(arguments) as client:
        _ask_and_show(
            arguments,
            files,
            lambda pictures: client.batch_identify(
                arguments.gallery,
                [_picture(arguments, data) for data in pictures],
                arguments.k,
                threshold=arguments.threshold,
                exact=arguments.exact,
                fusion=Fusion(arguments.fusion),
                filter=dict(arguments.filter),
            ),
            show,
        )


def _detect(arguments: argparse.Namespace) -> None:
    def show(asked: Asked[list[Face]], faces: list[Face]) -> None:
        if arguments.json:
            told = {"faces": [output.face_json(face) for face in faces]}
            print_json({"picture": asked.file.name} | told)
        else:
            print_lines(output.detection_lines(asked.file.name, faces))
        _plot(arguments, asked, [(face, f"{face.confidence:.3f}", True) for face in faces])

    files = _find_pictures(arguments)
    with open_client(arguments) as client:
        _ask_and_show(
            arguments,
            files,
            lambda pictures: client.detect([_picture(arguments, data) for data in pictures]),
            show,
        )


def _embed(arguments: argparse.Namespace) -> None:
    rows: list[Vector] = []
    dimensions: list[int] = []

    def ask(client: Client, pictures: list[bytes]) -> list[list[EmbeddedFace] | EngineError]:
        outcomes, contract = client.embed([_picture(arguments, data) for data in pictures])
        dimensions.append(contract.dimension)
        return outcomes

    def show(asked: Asked[list[EmbeddedFace]], faces: list[EmbeddedFace]) -> None:
        first_row = None if arguments.out is None else len(rows)
        rows.extend(face.template for face in faces)
        if arguments.json:
            print_json({"picture": asked.file.name} | output.embedding_json(faces, first_row))
        else:
            print_lines(output.embedding_lines(asked.file.name, faces, first_row))

    files = _find_pictures(arguments)
    with open_client(arguments) as client:
        try:
            _ask_and_show(arguments, files, lambda pictures: ask(client, pictures), show)
        finally:
            if arguments.out is not None and dimensions:
                _write_rows(arguments.out, rows, dimensions[0])


def _verify(arguments: argparse.Namespace) -> None:
    given = arguments.claim
    if arguments.pictures is not None and given:
        raise UsageError("give either GALLERY IDENTITY PICTURE, or --pictures with two pictures")
    if arguments.pictures is None and len(given) != 3:
        raise UsageError("give GALLERY IDENTITY PICTURE, or --pictures with two pictures")
    try:
        claimed = [take(text) for take, text in zip((gallery_name, identity_name), given, strict=False)]
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from error
    typed = arguments.pictures or given[2:]
    if typed.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once")
    files = [PictureFile(path) for path in typed]
    pictures = [_picture(arguments, file.read()) for file in files]
    with open_client(arguments) as client:
        try:
            if arguments.pictures is None:
                answer = client.verify(claimed[0], claimed[1], pictures[0], threshold=arguments.threshold)
            else:
                answer = client.verify_pair(pictures[0], pictures[1], threshold=arguments.threshold)
        except EngineError as error:
            raise name_items(error, [file.name for file in files]) from error
    if arguments.json:
        print_json(output.verification_json(answer))
    else:
        what = f"{files[-1].name} as {claimed[1]}" if claimed else f"{files[0].name} and {files[1].name}"
        print_lines(output.verification_lines(what, answer))


def _find_pictures(arguments: argparse.Namespace) -> list[PictureFile]:
    """Find the pictures given, before a server is asked or waited for."""
    files = find_pictures(arguments.pictures)
    plot: Path | None = getattr(arguments, "plot", None)
    if plot is not None and len(files) > 1:
        raise UsageError(f"--plot draws on one picture, but {len(files)} are given")
    if plot is not None and not plot.parent.is_dir():
        raise InvalidInputError(
            f"cannot write {plot}: there is no folder {plot.parent}", hint="Make it first."
        )
    return files


def _ask_and_show(
    arguments: argparse.Namespace,
    files: Sequence[PictureFile],
    ask: Callable[[list[bytes]], Sequence[T | EngineError]],
    show: Callable[[Asked[T], T], None],
) -> None:
    """Ask about all pictures and show each answer as it comes; one picture's error does not stop the others.

    Raises the first error, at the end.
    """
    failed: list[tuple[str, EngineError]] = []
    for asked in ask_each(files, ask):
        if not isinstance(asked.outcome, EngineError):
            show(asked, asked.outcome)
            continue
        failed.append((asked.file.name, asked.outcome))
        if len(files) > 1:
            _show_failure(arguments, asked.file.name, asked.outcome)
    if failed:
        raise total_failure(failed, len(files))


def _show_failure(arguments: argparse.Namespace, name: str, error: EngineError) -> None:
    if arguments.json:
        print_json({"picture": name} | output.error_json(error))
    else:
        print_lines([f"{name}: not used: {error.message.removeprefix(f'{name}: ')}"])


def _picture(arguments: argparse.Namespace, data: bytes) -> Picture:
    return Picture(data, FaceChoice(arguments.face), arguments.min_face_px)


def _plot(arguments: argparse.Namespace, asked: Asked[Any], labels: Sequence[Label]) -> None:
    if arguments.plot is None:
        return
    from engine.embedding.draw import draw_faces
    from engine.embedding.images import decode, encode_png

    _write(arguments.plot, encode_png(draw_faces(decode(asked.data), labels)))
    if not arguments.json:
        nothing = "" if labels else ", with nothing on it: no face was found"
        print_lines([f"drawn on {arguments.plot}{nothing}"])


def _write_rows(path: Path, rows: Sequence[Vector], dimension: int) -> None:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array(rows, np.float32).reshape(len(rows), dimension))
    _write(path, file.getvalue())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}", hint="Check the path.") from error
