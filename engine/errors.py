"""Every error that the engine raises, split by who must act.

::

    EngineError
    ├── InvalidInputError          the caller sent something that can never work
    │   ├── InvalidVectorError
    │   ├── InvalidIdError
    │   ├── InvalidPictureError
    │   │   ├── UndecodablePictureError
    │   │   └── PictureTooLargeError
    │   ├── NoFaceError
    │   └── RequestIdReusedError
    ├── NotFoundError              the thing named does not exist
    │   ├── GalleryNotFoundError
    │   ├── IdentityNotFoundError
    │   └── TemplateNotFoundError
    ├── AlreadyExistsError         the name is taken
    ├── PreconditionError          right in itself, wrong in this state
    │   ├── ContractMismatchError
    │   ├── TemplateLimitError
    │   └── NoEmbedderError
    ├── ExhaustedError             try later, or give the operator more room
    │   ├── OverloadedError
    │   └── StorageFullError
    ├── DeadlineError              the caller's time was up before work was done
    ├── UnavailableError           this server cannot answer now; another call may work
    ├── NotImplementedYetError     the rpc exists, this version does not do it
    ├── CorruptDataError           a checksum on disk does not hold
    └── OperatorError              the server's set-up is wrong: it refuses to start
        ├── SettingsError
        ├── DataFolderError
        ├── NewerFormatError
        ├── WeightsError
        ├── TrainingError
        └── DeviceError

The class says who must act, ``reason`` says what in a word for programs, the message says it to a
person, ``hint`` says the next step. Inner code does not know the wire: one table, in engine/wire,
maps classes to gRPC codes, and (code, reason) back to these classes.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Root of all errors that the engine raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"
    hint: str = "This is a bug in Identiface: please report it with the server's log line."

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint
        self.retry_after_s = retry_after_s


class InvalidInputError(EngineError):
    """The caller sent something that can never work."""

    reason = "INVALID_INPUT"
    hint = "Change the request as the message says."


class InvalidVectorError(InvalidInputError):
    """A vector of wrong length, not finite, zero, or not of unit length."""

    reason = "INVALID_VECTOR"
    hint = (
        "Send unit-length little-endian float32 of the gallery's dimension, or set normalize: in Python, give"
        " RawVector(vector)."
    )


class InvalidIdError(InvalidInputError):
    """A gallery, identity, template or request id that breaks its rule."""

    reason = "INVALID_ID"
    hint = "Choose an id that follows the rule in the message."


class InvalidPictureError(InvalidInputError):
    """A picture that cannot be used."""

    reason = "INVALID_PICTURE"
    hint = "Send a JPEG, PNG, WebP or BMP picture."


class UndecodablePictureError(InvalidPictureError):
    """Bytes that are no picture, or a damaged one."""

    reason = "UNDECODABLE_PICTURE"
    hint = "Check that the file is a whole picture."


class PictureTooLargeError(InvalidPictureError):
    """More bytes, pixels or frames than the limits allow; found before decoding."""

    reason = "PICTURE_TOO_LARGE"
    hint = "Scale the picture down before sending it."


class NoFaceError(InvalidInputError):
    """A picture to be enrolled holds no face that fits."""

    reason = "NO_FACE"
    hint = "Choose a picture with a face of at least the minimum size, or lower the minimum face size."


class RequestIdReusedError(InvalidInputError):
    """The request id was used for another body within the last day."""

    reason = "REQUEST_ID_REUSED"
    hint = "Use a fresh request_id for every new request; repeat one only to retry the same body."


class NotFoundError(EngineError):
    """The thing named does not exist."""

    reason = "NOT_FOUND"
    hint = "Check the name."


class GalleryNotFoundError(NotFoundError):
    """No gallery and no alias of that name."""

    reason = "GALLERY_NOT_FOUND"
    hint = "Create the gallery first, or check its name with ListGalleries."


class IdentityNotFoundError(NotFoundError):
    """No identity of that id is enrolled in the gallery."""

    reason = "IDENTITY_NOT_FOUND"
    hint = "Check the identity_id and the gallery."


class TemplateNotFoundError(NotFoundError):
    """No template of that id belongs to the identity."""

    reason = "TEMPLATE_NOT_FOUND"
    hint = "Check the template_id with GetIdentity."


class AlreadyExistsError(EngineError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"
    hint = "Choose another name, or remove what has this one."


class PreconditionError(EngineError):
    """Right in itself, wrong in this state."""

    reason = "FAILED_PRECONDITION"
    hint = "Change the state that the message names, then ask again."


class ContractMismatchError(PreconditionError):
    """Templates of another embedding contract than the gallery's."""

    reason = "CONTRACT_MISMATCH"
    hint = "Use the network that the gallery was created for, or create a gallery for this one."


class TemplateLimitError(PreconditionError):
    """The identity has as many templates as the gallery allows."""

    reason = "TEMPLATE_LIMIT"
    hint = "Remove templates, enroll with replace, or with evict=lowest_quality."


class NoEmbedderError(PreconditionError):
    """A picture was sent to a server that was started without a network."""

    reason = "NO_EMBEDDER"
    hint = "Send vectors, or start the server with --model."


class ExhaustedError(EngineError):
    """Try later, or give the operator more room."""

    reason = "RESOURCE_EXHAUSTED"
    hint = "Try again later."


class OverloadedError(ExhaustedError):
    """More work is waiting than a named limit allows; nothing was begun."""

    reason = "OVERLOADED"
    hint = "Wait as long as RetryInfo says, then try again."


class StorageFullError(ExhaustedError):
    """The disk or the gallery's address space is full; nothing answered was lost."""

    reason = "STORAGE_FULL"
    hint = (
        "Free disk space under the data folder, or raise galleries.store.map_size_bytes_max, then try again."
    )


class DeadlineError(EngineError):
    """The caller's time was up before the work was done."""

    reason = "DEADLINE_EXCEEDED"
    hint = "Allow more time. A write may or may not have been made: retry with the same request_id."


class UnavailableError(EngineError):
    """The server cannot answer now; another call may work."""

    reason = "UNAVAILABLE"
    hint = "Try again shortly."


class NotImplementedYetError(EngineError):
    """The rpc exists, this version does not do it."""

    reason = "NOT_IMPLEMENTED"
    hint = "See CHANGELOG.md for what this version does."


class CorruptDataError(EngineError):
    """A checksum on disk does not hold."""

    reason = "CORRUPT_DATA"
    hint = (
        "Check the disk, and keep a copy of the data folder. Other galleries are served on; enroll the "
        "people of this one anew into a fresh gallery, for this version makes no backups."
    )


class OperatorError(EngineError):
    """The server's set-up is wrong: it refuses to start."""

    reason = "OPERATOR"
    hint = "Change the set-up as the message says."


class SettingsError(OperatorError):
    """A key or value in the settings that cannot be."""

    reason = "INVALID_SETTINGS"
    hint = "Change the settings as the message says."


class DataFolderError(OperatorError):
    """The data folder cannot be used: missing, unwritable, in use, or on a network file system."""

    reason = "DATA_FOLDER"
    hint = "Give --data a writable folder on a local disk that no other server uses."


class NewerFormatError(OperatorError):
    """Data written by a newer version of Identiface."""

    reason = "NEWER_FORMAT"
    hint = "Use the version of Identiface that wrote the data, or a newer one."


class WeightsError(OperatorError):
    """A weight file that is missing, damaged, or not of the network it is given to."""

    reason = "WEIGHTS"
    hint = "Give the weight file that belongs to the network."


class TrainingError(OperatorError):
    """A training run that must stop: it diverged, collapsed, or does not fit into memory."""

    reason = "TRAINING"
    hint = "Change the run's settings as the message says and start it in a new folder."


class DeviceError(OperatorError):
    """The device asked for is not there."""

    reason = "DEVICE"
    hint = "Use --device auto or --device cpu, or install a build of torch that sees the device."


def class_of_reason(reason: str) -> type[EngineError] | None:
    """Look up the class with that reason, None where there is none: an error came from another process."""
    waiting: list[type[EngineError]] = [EngineError]
    while waiting:
        kind = waiting.pop()
        if kind.reason == reason:
            return kind
        waiting.extend(kind.__subclasses__())
    return None
