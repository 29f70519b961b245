"""Parts of the server that need no process: pages, settings, streams of messages, admission."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import config
from engine.errors import InvalidInputError, NoFaceError, SettingsError, UnavailableError
from engine.server.call import ClientGone, Inbox
from engine.server.interceptor import CountedPool
from engine.server.pages import page_of, read_token, write_token
from engine.server.pictures import named
from engine.server.settings import ServeSettings, read_address, refuse_unprotected

WAIT_S = 30.0


@given(st.text(min_size=1))
def test_a_page_token_comes_back(last: str) -> None:
    encodable = last.encode("utf-8", "ignore").decode()
    if encodable:
        assert read_token(write_token(encodable)) == encodable


@given(st.text())
def test_any_other_text_is_the_first_page_or_refused(text: str) -> None:
    try:
        last = read_token(text)
    except InvalidInputError:
        return
    assert write_token(last) == text if text else last == ""


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 10])
def test_pages_together_are_the_list(count: int) -> None:
    names = [f"{number:02d}" for number in range(count)]

    def fetch(after: str, limit: int) -> Sequence[str]:
        return [name for name in names if name > after][:limit]

    seen: list[str] = []
    token, num_pages = "", 0
    while token or not num_pages:
        page, token = page_of(fetch, str, 5, token)
        seen.extend(page)
        num_pages += 1
    assert seen == names
    assert num_pages == max(1, -(-count // 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7300", ("127.0.0.1", 7300)),
        ("[::1]:0", ("::1", 0)),
        ("faces.example:65535", ("faces.example", 65535)),
    ],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    assert read_address(text, "listen") == expected


@pytest.mark.parametrize("text", ["", "7300", ":7300", "host", "host:", "host:65536", "::1:7300", "a b:1"])
def test_what_is_no_address_is_refused_by_key(text: str) -> None:
    with pytest.raises(SettingsError, match="metrics_listen"):
        read_address(text, "metrics_listen")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    refuse_unprotected(host, "listen", insecure=False)


@pytest.mark.parametrize("key", ["listen", "metrics_listen"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "faces.example"])
def test_other_addresses_need_permission(host: str, key: str) -> None:
    refuse_unprotected(host, key, insecure=True)
    with pytest.raises(SettingsError, match=f"^{key}: ") as caught:
        refuse_unprotected(host, key, insecure=False)
    assert "--insecure" in caught.value.hint


def test_the_defaults_are_settings_that_hold() -> None:
    settings = config.build(ServeSettings, {"data": "faces"})
    assert read_address(settings.listen, "listen")[0] == "127.0.0.1"
    assert not settings.insecure
    with pytest.raises(SettingsError, match="data"):
        config.build(ServeSettings, {})


def test_an_inbox_hands_on_all_messages_in_order() -> None:
    messages = [bytes([number]) for number in range(100)]
    assert list(Inbox(iter(messages))) == messages
    assert list(Inbox(iter(()))) == []


def test_an_inbox_reads_no_further_ahead_than_it_may() -> None:
    taken = threading.Semaphore(0)

    def messages() -> Iterator[bytes]:
        for number in range(10):
            taken.release()
            yield bytes([number])

    inbox = Inbox(messages())
    assert taken.acquire(timeout=WAIT_S)
    # The second message is drawn only after the first was handed on.
    assert not taken.acquire(timeout=0.05)
    assert next(inbox) == b"\x00"
    assert taken.acquire(timeout=WAIT_S)
    inbox.close()


def test_an_inbox_ends_at_once_when_the_server_stops() -> None:
    forever = threading.Event()

    def silence() -> Iterator[bytes]:
        yield b"first"
        forever.wait(WAIT_S)

    inbox = Inbox(silence())
    assert next(inbox) == b"first"
    threading.Timer(0.01, inbox.stop).start()
    with pytest.raises(UnavailableError, match="stopping"):
        next(inbox)
    forever.set()


def test_an_inbox_drops_what_waits_when_the_caller_is_gone() -> None:
    def broken() -> Iterator[bytes]:
        yield b"read ahead"
        raise grpc.RpcError

    inbox = Inbox(broken())
    assert next(inbox) == b"read ahead"
    with pytest.raises(ClientGone):
        next(inbox)


def test_a_pool_counts_what_waits_what_runs_and_what_failed() -> None:
    go = threading.Event()
    with CountedPool(1, "counted") as pool:
        tasks = [pool.submit(go.wait, WAIT_S) for _ in range(3)]
        failing = pool.submit(int, "no number")
        assert pool.num_unfinished == 4
        assert tasks[2].cancel()
        assert pool.num_unfinished == 3
        go.set()
        assert isinstance(failing.exception(WAIT_S), ValueError)
    assert pool.num_unfinished == 0


def test_an_error_names_its_item_and_keeps_its_class() -> None:
    error = named(NoFaceError("nobody there", hint="look again"), "samples[2]")
    assert isinstance(error, NoFaceError)
    assert (error.message, error.hint) == ("samples[2]: nobody there", "look again")
    other = UnavailableError("closed")
    assert named(other, "samples[2]") is other
