"""The edge of every rpc: admission, deadline, bytes to messages, errors to statuses, log line and counts.

::

    admitted? -> pool thread -> deadline -> parse -> service -> serialise -> status -> log line

Messages are parsed and serialised here, in the thread that answers, instead of by gRPC: their sizes are then
known, damaged ones get a proper status, and gRPC's one event thread is not held up by large ones. Knows
nothing of what an rpc does.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from engine.errors import EngineError, InvalidInputError, OverloadedError, UnavailableError
from engine.logs import LOGGER
from engine.rules import GALLERY_ID
from engine.server.call import Call, ClientGone, Inbox, stopping_error
from engine.telemetry import Telemetry
from engine.wire.errors import to_status

T = TypeVar("T")
HEALTH_PREFIX = "/grpc.health.v1."
OVERLOADED_RETRY_S = 0.5
"""What RetryInfo asks of a caller that was refused: about as long as a batch of pictures takes."""
WORKER_METADATA = "identiface-worker"
"""Key of the trailing metadata that names the worker that answered, where there are several."""
_PACKAGE = "identiface.v1."

Behaviour = Callable[[Any, Any], Any]
Handler = Any
"""grpc.RpcMethodHandler, whose own type says of every behaviour that it may be missing."""


class Phase(enum.Enum):
    """Of the server's life."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    STOPPING = enum.auto()


class CountedPool(futures.ThreadPoolExecutor):
    """A thread pool that knows how many tasks it has not finished, waiting ones included."""

    def __init__(self, threads: int, name: str):
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._counting = threading.Lock()
        self._num_unfinished = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Queue a task and count it until it is over."""
        future = super().submit(fn, *args, **kwargs)
        with self._counting:
            self._num_unfinished += 1
        future.add_done_callback(self._uncount)
        return future

    @property
    def num_unfinished(self) -> int:
        """Tasks waiting or running."""
        return self._num_unfinished

    def _uncount(self, _: futures.Future[Any]) -> None:
        with self._counting:
            self._num_unfinished -= 1


class InPool:
    """A behaviour that gRPC runs in a pool of its own: it looks for the attribute of that name."""

    def __init__(self, behaviour: Behaviour, pool: futures.ThreadPoolExecutor):
        self._behaviour = behaviour
        self.experimental_thread_pool = pool

    def __call__(self, request: Any, context: Any) -> Any:
        """Behave as the behaviour given."""
        return self._behaviour(request, context)


class Watches:
    """The health service's Watch, which holds no thread, with an end: gRPC would let it last for ever."""

    experimental_non_blocking = True

    def __init__(self, behaviour: Callable[..., Any], pool: futures.ThreadPoolExecutor):
        self._behaviour = behaviour
        self.experimental_thread_pool = pool
        self._changing = threading.Lock()
        self._open: set[grpc.ServicerContext] = set()

    def __call__(self, request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> Any:
        """Begin a watch; `send` is what gRPC sends its answers with."""
        with self._changing:
            self._open.add(context)
        if not context.add_callback(lambda: self._forget(context)):
            self._forget(context)
        return self._behaviour(request, context, send)

    def end(self) -> None:
        """Cancel all that are open."""
        with self._changing:
            contexts = list(self._open)
        for context in contexts:
            context.cancel()  # type: ignore[no-untyped-call]

    def _forget(self, context: grpc.ServicerContext) -> None:
        with self._changing:
            self._open.discard(context)


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every handler but those of the health service, which only get a pool of their own."""

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        unary_pool: CountedPool,
        stream_pool: CountedPool,
        small_pool: futures.ThreadPoolExecutor,
        unary_max: int,
        streams_max: int,
        worker: str = "",
    ):
        """`unary_max` counts calls that run or wait; `small_pool` answers those refused.

        `worker`, where it is not empty, is told in the trailing metadata of every answer.
        """
        self._telemetry = telemetry
        self._metadata = ((WORKER_METADATA, worker),) if worker else ()
        self._unary_pool = unary_pool
        self._stream_pool = stream_pool
        self._small_pool = small_pool
        self._unary_max = unary_max
        self._streams_max = streams_max
        self._phase = Phase.STARTING
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._inboxes: set[Inbox] = set()
        self._wrapped: dict[str, Handler] = {}
        self._watches: Watches | None = None

    def open(self) -> None:
        """Begin to admit rpcs."""
        self._phase = Phase.SERVING

    def stop(self) -> None:
        """Admit no more rpcs, and end open streams after the message that each is working on."""
        with self._changing:
            self._phase = Phase.STOPPING
            self._stopping.set()
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.stop()

    def end_watches(self) -> None:
        """End the watches of health, once they have been told."""
        if self._watches is not None:
            self._watches.end()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Choose what answers an rpc; gRPC asks in one thread, just before it queues the answer."""
        handler = continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None:
            return None
        if method.startswith(HEALTH_PREFIX):
            return self._in_small_pool(handler)
        refusal = self._refusal(handler)
        if refusal is not None:
            return self._wrap(method, _refuser(handler, refusal), self._small_pool)
        if method not in self._wrapped:
            is_stream = handler.request_streaming or handler.response_streaming
            pool = self._stream_pool if is_stream else self._unary_pool
            self._wrapped[method] = self._wrap(method, handler, pool)
        return self._wrapped[method]

    def _refusal(self, handler: Handler) -> EngineError | None:
        if self._phase is Phase.STOPPING:
            return stopping_error()
        if self._phase is Phase.STARTING:
            return UnavailableError(
                "the server is starting",
                hint="Wait until the health service says SERVING.",
                retry_after_s=1.0,
            )
        if handler.request_streaming or handler.response_streaming:
            if self._stream_pool.num_unfinished >= self._streams_max:
                return OverloadedError(
                    f"{self._streams_max} streams are open, as many as streams_max allows",
                    retry_after_s=OVERLOADED_RETRY_S,
                )
        elif self._unary_pool.num_unfinished >= self._unary_max:
            return OverloadedError(
                f"{self._unary_max} calls run or wait, as many as threads and unary_queue_max allow",
                retry_after_s=OVERLOADED_RETRY_S,
            )
        return None

    def _in_small_pool(self, handler: Handler) -> Handler:
        if handler.response_streaming:
            if self._watches is None:
                self._watches = Watches(handler.unary_stream, self._small_pool)
            return grpc.unary_stream_rpc_method_handler(
                self._watches, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            InPool(handler.unary_unary, self._small_pool),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _wrap(self, method: str, handler: Handler, pool: futures.ThreadPoolExecutor) -> Handler:
        rpc = method.removeprefix("/").removeprefix(_PACKAGE)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(InPool(self._stream_stream(rpc, handler), pool))
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(InPool(self._unary_stream(rpc, handler), pool))
        return grpc.unary_unary_rpc_method_handler(InPool(self._unary_unary(rpc, handler), pool))

    def _unary_unary(self, rpc: str, handler: Handler) -> Behaviour:
        def behave(data: bytes, context: grpc.ServicerContext) -> bytes:
            with self._edge(rpc, context, is_stream=False) as call:
                request = _parse(handler, data, call)
                return _serialise(handler, handler.unary_unary(request, call), call)

        return behave

    def _unary_stream(self, rpc: str, handler: Handler) -> Behaviour:
        def behave(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._edge(rpc, context, is_stream=True) as call:
                request = _parse(handler, data, call)
                for response in handler.unary_stream(request, call):
                    yield _serialise(handler, response, call)

        return behave

    def _stream_stream(self, rpc: str, handler: Handler) -> Behaviour:
        def behave(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._edge(rpc, context, is_stream=True) as call, self._inbox(messages) as inbox:
                requests = (_parse(handler, data, call) for data in inbox)
                for response in handler.stream_stream(requests, call):
                    yield _serialise(handler, response, call)

        return behave

    @contextlib.contextmanager
    def _inbox(self, messages: Iterator[bytes]) -> Iterator[Inbox]:
        inbox = Inbox(messages)
        with self._changing:
            self._inboxes.add(inbox)
            if self._phase is Phase.STOPPING:
                inbox.stop()
        try:
            yield inbox
        finally:
            with self._changing:
                self._inboxes.discard(inbox)
            inbox.close()

    @contextlib.contextmanager
    def _edge(self, rpc: str, context: grpc.ServicerContext, *, is_stream: bool) -> Iterator[Call]:
        """Turn what is raised inside into the rpc's status; whatever happens, one line and one count."""
        record = self._telemetry.begin(rpc, context.peer(), is_stream=is_stream)
        call = Call(context, record, self._stopping)
        try:
            if self._metadata:
                context.set_trailing_metadata(self._metadata)
            call.check()
            yield call
            if not context.is_active():
                record.code = grpc.StatusCode.CANCELLED.name
        except EngineError as error:
            status = self._status(error)
            record.code, record.reason = status.code.name, error.reason
            context.abort_with_status(status)
        except ClientGone:
            record.code = grpc.StatusCode.CANCELLED.name
            # Aborting is how a handler ends without an answer and without gRPC logging a stack trace.
            context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")
        except GeneratorExit:
            # gRPC drops the rest of a stream whose caller is gone.
            record.code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception as bug:  # noqa: BLE001 - the boundary: logged with its frames, nothing leaks
            LOGGER.error("internal error", exc_info=bug, extra={"fields": {"rpc": rpc}})
            internal = EngineError("internal error")
            record.code, record.reason = grpc.StatusCode.INTERNAL.name, internal.reason
            context.abort_with_status(self._status(internal))
        finally:
            self._telemetry.end(record, is_stream=is_stream)

    def _status(self, error: EngineError) -> Any:
        """An error as gRPC aborts with it; aborting replaces the metadata that was set before."""
        status: Any = rpc_status.to_status(to_status(error))
        return status._replace(trailing_metadata=(*status.trailing_metadata, *self._metadata))


def _refuser(handler: Handler, refusal: EngineError) -> Handler:
    """Make a handler of the same kind that answers nothing but the refusal."""

    def refuse(_request: Any, _call: Call) -> Any:
        raise refusal

    kind = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return kind(refuse, handler.request_deserializer, handler.response_serializer)


def _parse(handler: Handler, data: bytes, call: Call) -> Any:
    """Read one request and note in the log line what of it may stand there."""
    record = call.record
    record.request_size_bytes += len(data)
    if handler.request_streaming:
        record.num_messages += 1
    try:
        request = handler.request_deserializer(data)
    except DecodeError as error:
        raise InvalidInputError(f"the request is not a message of {record.rpc}") from error
    gallery_id = getattr(request, "gallery_id", "")
    # What cannot be the name of a gallery may be anything, also what a log must never hold.
    if GALLERY_ID.fullmatch(gallery_id):
        record.gallery = gallery_id
    if request_id := getattr(request, "request_id", ""):
        record.request_id = request_id
    return request


def _serialise(handler: Handler, response: Any, call: Call) -> bytes:
    data: bytes = handler.response_serializer(response)
    call.record.response_size_bytes += len(data)
    return data
