"""One way for all writes to be safe to retry: the first answer is kept and given again. Knows no rpc."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from engine.server.call import Call
from engine.types import AnsweredBefore, Receipt

Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")

CALLER = ""
"""Who asks, until callers are told apart."""


def answer_once(
    call: Call,
    request: Message,
    kind: type[Response],
    *,
    find: Callable[[Receipt], bytes | None],
    write: Callable[[Receipt | None], Result],
    pack: Callable[[Result], Response],
) -> Response:
    """Write and answer; a repeated request_id with the same body gets the first answer instead.

    `find` looks that up before any work is begun, `write` works and keeps the answer in one transaction with
    what it wrote, `pack` makes the answer, of type `kind`, from the result. Raises RequestIdReusedError for
    another body, and what `write` raises.
    """
    receipt = _receipt(call, request, pack)
    if receipt is None:
        return pack(write(None))
    if (answer := find(receipt)) is not None:
        return kind.FromString(answer)
    try:
        return pack(write(receipt))
    except AnsweredBefore as before:
        # Another call with the same request_id was answered since we looked.
        return kind.FromString(before.answer)


def store_once(
    call: Call,
    request: Message,
    kind: type[Response],
    *,
    find: Callable[[Receipt], bytes | None],
    write: Callable[[Receipt | None], Result],
    pack: Callable[[Result], Response],
) -> Response:
    """As `answer_once`, for a write that is nothing but the store's work: its time is that stage's."""

    def write_staged(receipt: Receipt | None) -> Result:
        with call.stage("store"):
            return write(receipt)

    return answer_once(call, request, kind, find=find, write=write_staged, pack=pack)


def _receipt(call: Call, request: Any, pack: Callable[[Any], Message]) -> Receipt | None:
    request_id: str = request.request_id
    if not request_id:
        return None
    key = hashlib.sha256("\0".join((CALLER, call.record.rpc, request_id)).encode())
    # The id is not part of the body; the request is ours, and nothing reads its id after this.
    request.ClearField("request_id")
    body = hashlib.sha256(request.SerializeToString(deterministic=True))
    return Receipt(key.digest(), body.digest(), lambda result: pack(result).SerializeToString())
