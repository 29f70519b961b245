"""Streams: items into messages of bounded size, sent as they come, each answer paired with its message.

Knows nothing of what the messages say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from engine.client.channels import ChannelPool, Connection
from engine.limits import PICTURES_MAX

MESSAGE_ITEMS_SIZE_BYTES_MAX = 16 * 2**20
"""Size of the items of one message of a stream: what is beyond goes into the next message, a single larger
item alone. Well below the limit of a message, so that the server's memory holds many at once."""

M = TypeVar("M", bound=Message)
Tag = TypeVar("Tag")


def batches(
    items: Iterable[M], num_max: int, num_pictures: Callable[[M], int] = lambda _: 1
) -> Iterator[list[M]]:
    """Cut items into lists of 1 to `num_max`, which a server takes in one message.

    That is at most MESSAGE_ITEMS_SIZE_BYTES_MAX bytes and PICTURES_MAX pictures; `num_pictures` says how many
    an item holds. An item beyond that is alone.
    """
    batch: list[M] = []
    size = pictures = 0
    for item in items:
        item_size, item_pictures = item.ByteSize(), num_pictures(item)
        is_over = size + item_size > MESSAGE_ITEMS_SIZE_BYTES_MAX or pictures + item_pictures > PICTURES_MAX
        if batch and is_over:
            yield batch
            batch, size, pictures = [], 0, 0
        batch.append(item)
        size += item_size
        pictures += item_pictures
        if len(batch) == num_max:
            yield batch
            batch, size, pictures = [], 0, 0
    if batch:
        yield batch


class _Feed(Generic[Tag]):
    """The sending half of a stream; gRPC draws from it on a thread of its own."""

    def __init__(self, requests: Iterator[tuple[Message, Tag]]):
        self.tags: deque[Tag] = deque()
        self.failure: BaseException | None = None
        self._requests = requests

    def __iter__(self) -> Iterator[Message]:
        try:
            for message, tag in self._requests:
                self.tags.append(tag)
                yield message
        # gRPC would log what the caller's iterator raises and cancel the stream: here the messages sent so
        # far are answered first, then the caller's own exception is raised again by `exchange`.
        except Exception as error:  # noqa: BLE001
            self.failure = error


def exchange(
    pool: ChannelPool,
    stub: Callable[[Connection], Any],
    requests: Iterator[tuple[Message, Tag]],
    timeout_s: float | None,
) -> Iterator[tuple[Any, Tag]]:
    """Send requests as they come and yield each answer with its request's tag, in order.

    Requests are drawn on another thread, no faster than the server takes them; what they raise is raised
    here once all that was sent is answered. Leaving the iteration cancels the stream.
    """
    feed = _Feed(requests)
    with pool.lease() as connection:
        call = stub(connection)(iter(feed), timeout=timeout_s)
        try:
            for answer in call:
                yield answer, feed.tags.popleft()
        finally:
            call.cancel()
        if feed.failure is not None:
            raise feed.failure
