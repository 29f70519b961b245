"""Pictures and vectors of requests as faces and templates, each item with its own outcome. Knows no rpc."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.errors import ContractMismatchError, EngineError, InvalidInputError, NoFaceError
from engine.limits import PICTURES_MAX
from engine.pb.identiface.v1 import types_pb2
from engine.server.backend import Backend
from engine.server.call import Call
from engine.types import EmbeddedFace, EmbeddingContract, FaceChoice
from engine.wire.values import unpack_face_choice, unpack_min_face_px

F = TypeVar("F")
Run = Callable[[Sequence[bytes], FaceChoice, int | None, float | None], list[list[F] | EngineError]]
"""A pipeline's detect or embed: pictures, choice, smallest face, deadline."""


def run_pictures(
    run: Run[F], pictures: Sequence[types_pb2.Picture], default: FaceChoice, call: Call
) -> list[list[F] | EngineError]:
    """Find the faces of each picture as it asks for, `default` where it leaves the choice open.

    What is wrong with one picture is its own outcome. Raises what concerns the whole call: DeadlineError,
    OverloadedError, UnavailableError.
    """
    outcomes: list[list[F] | EngineError] = [[]] * len(pictures)
    alike: dict[tuple[FaceChoice, int | None], list[int]] = {}
    for position, picture in enumerate(pictures):
        try:
            asked = unpack_face_choice(picture.face_choice, default), unpack_min_face_px(picture)
        except InvalidInputError as error:
            outcomes[position] = error
            continue
        alike.setdefault(asked, []).append(position)
    for (choice, min_face_px), positions in alike.items():
        with call.stage("embed"):
            found = _run_alike(run, [pictures[i].data for i in positions], choice, min_face_px, call.deadline)
        for position, outcome in zip(positions, found, strict=True):
            outcomes[position] = outcome
    return outcomes


def check_num_pictures(num_pictures: int, name: str) -> None:
    """Raise InvalidInputError naming the field for more than PICTURES_MAX pictures in one message."""
    if num_pictures > PICTURES_MAX:
        raise InvalidInputError(
            f"{name}: {num_pictures} pictures in one message; at most {PICTURES_MAX} are taken",
            hint="Send the others in a message of their own.",
        )


def only_face(faces: Sequence[F], name: str) -> F:
    """Take the one face that an item must mean. Raises NoFaceError, or InvalidInputError for several."""
    if not faces:
        raise NoFaceError(f"{name}: the picture holds no face that is large and clear enough")
    if len(faces) > 1:
        raise InvalidInputError(
            f"{name}: the picture holds {len(faces)} faces and face_choice is ALL; exactly one must be meant",
            hint="Choose LARGEST or CENTRE, or cut the person's face out of the picture.",
        )
    return faces[0]


def embed_for(
    backend: Backend,
    contract: EmbeddingContract,
    pictures: Sequence[types_pb2.Picture],
    call: Call,
    *,
    with_crops: bool = False,
) -> list[list[EmbeddedFace] | EngineError]:
    """Make templates of pictures for a gallery of that contract; the largest face's where nothing is said.

    `with_crops`: with the kept crops of faces that are the only one chosen.
    A server without a network, or with one of another contract, is every picture's own outcome.
    """
    if not pictures:
        return []
    try:
        pipeline = backend.need_pipeline()
        check_digest(digest_of(pipeline.embedder.contract), contract, "the server's network")
    except EngineError as error:
        return [error] * len(pictures)
    run = functools.partial(pipeline.embed, with_crops=with_crops)
    return run_pictures(run, pictures, FaceChoice.LARGEST, call)


def check_digest(digest: str, contract: EmbeddingContract, owner: str = "contract_digest") -> None:
    """Raise ContractMismatchError where the digest is not the contract's; an empty one is not checked."""
    if digest and digest != digest_of(contract):
        raise ContractMismatchError(
            f"{owner} is of contract {digest[:12]!r}, "
            f"the gallery of {digest_of(contract)[:12]!r} ({contract.name})"
        )


@functools.lru_cache(maxsize=1024)
def digest_of(contract: EmbeddingContract) -> str:
    """Look up a contract's digest, which takes longer to compute than a search."""
    return contract.digest


def named(error: EngineError, name: str) -> EngineError:
    """Say of which item an error is; a gallery's or server's own errors stay as they are."""
    if not isinstance(error, InvalidInputError):
        return error
    return type(error)(f"{name}: {error.message}", hint=error.hint, retry_after_s=error.retry_after_s)


def _run_alike(
    run: Run[F],
    pictures: Sequence[bytes],
    choice: FaceChoice,
    min_face_px: int | None,
    deadline: float | None,
) -> list[list[F] | EngineError]:
    try:
        return run(pictures, choice, min_face_px, deadline)
    except InvalidInputError as error:
        # What these pictures ask for alike cannot be; others of the call ask for something else.
        return [error] * len(pictures)
