"""Plain values of the domain as protobuf messages and back: `pack_` makes a message, `unpack_` a value.

Knows nothing of answers, rpcs or defaults of the server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import InvalidInputError, InvalidVectorError
from engine.pb.identiface.v1 import embedding_pb2, types_pb2
from engine.types import (
    Box,
    EmbeddedFace,
    EmbeddingContract,
    Face,
    FaceChoice,
    Keypoints,
    Vector,
)
from engine.vectors import to_bytes
from engine.wire.limits import FACE_PX_MIN

TIME_S_MIN = -62_135_596_800
"""Year 1, the earliest that google.protobuf.Timestamp can say; unix seconds."""
TIME_S_MAX = 253_402_300_799
"""End of year 9999, the latest; unix seconds."""

_FACE_CHOICES: dict[FaceChoice | None, types_pb2.FaceChoice] = {
    None: types_pb2.FACE_CHOICE_UNSPECIFIED,
    FaceChoice.LARGEST: types_pb2.FACE_CHOICE_LARGEST,
    FaceChoice.CENTRE: types_pb2.FACE_CHOICE_CENTRE,
    FaceChoice.ALL: types_pb2.FACE_CHOICE_ALL,
}
_FACE_CHOICES_BACK = {int(number): choice for choice, number in _FACE_CHOICES.items()}


def pack_time(time_s: float) -> Timestamp:
    """Turn unix seconds into a Timestamp, to the nanosecond.

    Raises InvalidInputError outside the years 1 to 9999.
    """
    if not math.isfinite(time_s) or not TIME_S_MIN <= time_s <= TIME_S_MAX:
        raise InvalidInputError(f"time {time_s}: expected unix seconds of the years 1 to 9999")
    whole = math.floor(time_s)
    # Split first: a time in nanoseconds has more digits than a double.
    nanos = round((time_s - whole) * 1e9)
    return Timestamp(seconds=whole + nanos // 10**9, nanos=nanos % 10**9)


def unpack_time(timestamp: Timestamp, name: str = "time") -> float:
    """Turn a Timestamp into unix seconds.

    Raises InvalidInputError naming the field `name` where seconds or nanoseconds are out of range.
    """
    if not TIME_S_MIN <= timestamp.seconds <= TIME_S_MAX or not 0 <= timestamp.nanos < 1e9:
        raise InvalidInputError(
            f"{name} of {timestamp.seconds} s and {timestamp.nanos} ns is not a time of the years 1 to 9999"
        )
    return timestamp.seconds + timestamp.nanos / 1e9


def pack_vector(vector: Vector, *, normalize: bool = False) -> types_pb2.Vector:
    """Turn a vector of real numbers into its message; the server checks length and norm.

    Raises InvalidVectorError where the array is not one row of real numbers.
    """
    return types_pb2.Vector(data=vector_bytes(vector), normalize=normalize)


def vector_bytes(vector: Vector) -> bytes:
    """Write a vector as the wire has it: little-endian float32.

    Raises InvalidVectorError where the array is not one row of real numbers.
    """
    row = np.asarray(vector)
    if row.ndim != 1 or row.dtype.kind not in "fiu":
        raise InvalidVectorError(f"expected a vector float32[d], got {row.dtype}{list(row.shape)}")
    return to_bytes(row)


def vector_from_bytes(data: bytes) -> Vector:
    """Read float32[d] from what the server sent; the array is the caller's own and writable.

    Raises InvalidVectorError where the length is not that of whole floats. Servers check more: see
    engine.vectors.
    """
    if len(data) % 4:
        raise InvalidVectorError(f"{len(data)} bytes are not whole float32 numbers")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def pack_face_choice(choice: FaceChoice | None) -> types_pb2.FaceChoice:
    """Turn a choice into its number; None leaves it to the server."""
    return _FACE_CHOICES[choice]


def unpack_face_choice(number: int, default: FaceChoice = FaceChoice.LARGEST) -> FaceChoice:
    """Turn a number into a choice; unspecified means `default`, which differs between rpcs.

    Raises InvalidInputError for a number that this version does not know.
    """
    if number not in _FACE_CHOICES_BACK:
        raise InvalidInputError(f"face_choice {number} is not known: use LARGEST, CENTRE or ALL")
    choice = _FACE_CHOICES_BACK[number]
    return default if choice is None else choice


def pack_picture(
    data: bytes, choice: FaceChoice | None = None, min_face_px: int | None = None
) -> types_pb2.Picture:
    """Turn a picture file into its message; None leaves choice or smallest face to the server."""
    return types_pb2.Picture(data=data, face_choice=pack_face_choice(choice), min_face_px=min_face_px or 0)


def unpack_min_face_px(picture: types_pb2.Picture) -> int | None:
    """Read the smallest face to look for, in pixels; None: the server's setting.

    Raises InvalidInputError where it is less than FACE_PX_MIN.
    """
    if picture.min_face_px == 0:
        return None
    if picture.min_face_px < FACE_PX_MIN:
        raise InvalidInputError(
            f"min_face_px is {picture.min_face_px}; it must be at least {FACE_PX_MIN}, or 0 for the default"
        )
    return picture.min_face_px


def pack_box(box: Box) -> types_pb2.Box:
    """Turn a box into its message; coordinates become float32."""
    return types_pb2.Box(x1=box.x1, y1=box.y1, x2=box.x2, y2=box.y2)


def unpack_box(message: types_pb2.Box) -> Box:
    """Turn a message into a box."""
    return Box(message.x1, message.y1, message.x2, message.y2)


def pack_face(face: Face | None) -> types_pb2.Face | None:
    """Turn a detected face into its message; None, as of a vector, stays None and leaves the field unset."""
    if face is None:
        return None
    return types_pb2.Face(
        box=pack_box(face.box),
        confidence=face.confidence,
        keypoints=[types_pb2.Point(x=float(x), y=float(y)) for x, y in face.keypoints],
    )


def unpack_face(message: types_pb2.Face) -> Face:
    """Turn a message into a detected face."""
    points = [(point.x, point.y) for point in message.keypoints]
    keypoints: Keypoints = np.array(points, dtype=np.float32).reshape(-1, 2)
    return Face(unpack_box(message.box), message.confidence, keypoints)


def pack_picture_faces(faces: Iterable[EmbeddedFace | Face]) -> embedding_pb2.PictureFaces:
    """Turn the faces of one picture into their message; faces that were only detected have no vector."""
    picture = embedding_pb2.PictureFaces()
    for face in faces:
        if isinstance(face, EmbeddedFace):
            vector = vector_bytes(face.template)
            picture.faces.add(face=pack_face(face.face), vector=vector, crop=face.crop)
        else:
            picture.faces.add(face=pack_face(face))
    return picture


def unpack_detected_faces(message: embedding_pb2.PictureFaces) -> list[Face]:
    """Turn the faces of one picture into values, without their vectors."""
    return [unpack_face(face.face) for face in message.faces]


def unpack_embedded_faces(message: embedding_pb2.PictureFaces) -> list[EmbeddedFace]:
    """Turn the faces of one picture and their vectors into values."""
    return [
        EmbeddedFace(unpack_face(face.face), vector_from_bytes(face.vector), face.crop)
        for face in message.faces
    ]


def pack_contract(contract: EmbeddingContract) -> types_pb2.EmbeddingContract:
    """Turn a contract into its message, digest included."""
    return types_pb2.EmbeddingContract(
        name=contract.name,
        weights_sha256=contract.weights_sha256,
        alignment=contract.alignment,
        mirror=contract.mirror,
        dimension=contract.dimension,
        normalisation=contract.normalisation,
        threshold=contract.threshold,
        digest=contract.digest,
    )


def unpack_contract(message: types_pb2.EmbeddingContract) -> EmbeddingContract:
    """Turn a message into a contract; the digest sent is ignored, no normalisation means "l2"."""
    return EmbeddingContract(
        name=message.name,
        weights_sha256=message.weights_sha256,
        alignment=message.alignment,
        mirror=message.mirror,
        dimension=message.dimension,
        normalisation=message.normalisation or "l2",
        threshold=message.threshold,
    )
