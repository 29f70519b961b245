"""The engine's errors as gRPC statuses and back: one table for both directions.

Knows nothing of rpcs: who raises what is written beside each rpc in the protos. The details follow the
error model of google/rpc/error_details.proto (ErrorInfo, RetryInfo).
"""

from __future__ import annotations

import re

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from engine.errors import (
    AlreadyExistsError,
    CorruptDataError,
    DeadlineError,
    EngineError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    NotImplementedYetError,
    OperatorError,
    PreconditionError,
    UnavailableError,
    class_of_reason,
)
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

DOMAIN = "identiface"
"""Domain of every ErrorInfo that the engine sends."""
STATUS_MESSAGE_BYTES_MAX = 1024
"""UTF-8 bytes of a status's message and of its hint; the rest is cut. A status travels as metadata, where
gRPC allows 8 KiB in all, and non-ASCII text takes up to three times its size there."""

_CODES: dict[type[EngineError], grpc.StatusCode] = {
    EngineError: grpc.StatusCode.INTERNAL,
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    NotImplementedYetError: grpc.StatusCode.UNIMPLEMENTED,
    CorruptDataError: grpc.StatusCode.DATA_LOSS,
    OperatorError: grpc.StatusCode.FAILED_PRECONDITION,
}

_CLASSES: dict[grpc.StatusCode, type[EngineError]] = {
    # Where two classes share a code, the one whose caller must act stands: an operator's error reaches
    # clients only by its reason.
    **{code: kind for kind, code in _CODES.items() if kind is not OperatorError},
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.ABORTED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
}
_CODES_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_NO_CONNECTION = re.compile(
    r"failed to connect to all addresses|connections to all backends failing|DNS resolution failed"
    r"|Domain name not found",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"message larger than max", re.IGNORECASE)


def code_of(error: EngineError) -> grpc.StatusCode:
    """Look up the gRPC code of an error: that of its nearest ancestor in the table."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def to_status(error: EngineError) -> Status:
    """Turn an error into a google.rpc.Status with ErrorInfo and, where it says when to retry, RetryInfo.

    Message and hint are cut to STATUS_MESSAGE_BYTES_MAX.
    """
    status = Status(code=code_of(error).value[0], message=_cut(error.message))
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"hint": _cut(error.hint)})
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    return status


def from_status(status: Status) -> EngineError:
    """Turn a google.rpc.Status back into the error that it was made from.

    A reason that this version does not know, and a status without the engine's ErrorInfo, become the nearest
    class by code.
    """
    info = _error_info(status)
    if info is None:
        return _class_of(status.code)(status.message or "the server gave no message")
    kind = class_of_reason(info.reason)
    hint = info.metadata.get("hint") or None
    retry_after_s = _retry_after_s(status)
    if kind is None:
        message = f"{status.message} ({info.reason})"
        return _class_of(status.code)(message, hint=hint, retry_after_s=retry_after_s)
    return kind(status.message, hint=hint, retry_after_s=retry_after_s)


def from_rpc_error(error: grpc.RpcError, address: str = "the server") -> EngineError:
    """Turn a failed call into the engine's error; what the transport refused is worded for a person.

    `address` (HOST:PORT) names the server in the message.
    """
    # grpc raises errors that are calls, too, which its type stubs cannot say.
    call: object = error
    if not isinstance(call, grpc.Call):
        return UnavailableError(f"the call to {address} failed: {error}")
    status = _status_of(call)
    if status is not None and _error_info(status) is not None:
        return from_status(status)
    return _from_transport(call.code(), call.details() or "", address)


def _from_transport(code: grpc.StatusCode, details: str, address: str) -> EngineError:
    kind = _CLASSES.get(code, EngineError)
    hint = None
    message = f"{address} answered {code.name}: {details or 'without a message'}"
    if code is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION.search(details):
        message = f"no server answers at {address}"
        hint = "Start one with `identiface serve`, or give the address of one that runs."
    elif code is grpc.StatusCode.UNAVAILABLE:
        message = f"the connection to {address} was lost: {details}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{address} did not answer within the time allowed"
    elif code is grpc.StatusCode.CANCELLED:
        message = f"the call to {address} was cancelled"
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        kind = InvalidInputError
        message = f"message over the limit of {MESSAGE_SIZE_BYTES_MAX // 2**20} MiB: {details}"
        hint = "Send smaller or fewer pictures and vectors in one message, or ask for smaller pages."
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"{address} does not know this call: {details}"
        hint = "Check that the address is that of an Identiface server of this version."
    return kind(message, hint=hint)


def _status_of(call: grpc.Call) -> Status | None:
    try:
        status: Status | None = rpc_status.from_call(call)
    except ValueError:
        # Somebody between us and the server changed code or message; the details are then not to be trusted.
        return None
    return status


def _error_info(status: Status) -> ErrorInfo | None:
    for detail in status.details:
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _retry_after_s(status: Status) -> float | None:
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return None


def _class_of(code: int) -> type[EngineError]:
    known = _CODES_BY_NUMBER.get(code)
    return EngineError if known is None else _CLASSES.get(known, EngineError)


def _cut(text: str) -> str:
    """Cut text to what a status may carry; what UTF-8 cannot write (undecoded file names) is escaped."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= STATUS_MESSAGE_BYTES_MAX:
        return data.decode()
    mark = "..."
    return data[: STATUS_MESSAGE_BYTES_MAX - len(mark)].decode("utf-8", "ignore") + mark
