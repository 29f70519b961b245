"""Lines of the log: JSON, or words for a terminal, and what must never be in them. Knows nothing of rpcs."""

from __future__ import annotations

import datetime as dt
import logging
import sys
import traceback
from typing import TextIO

import msgspec

LOGGER = logging.getLogger("identiface")
REQUEST_EVENT = "rpc"
"""What the line of a request calls itself."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `worker` names the process where there are several."""

    def __init__(self, worker: str = ""):
        super().__init__()
        self._common = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """Write the record and its extra `fields`."""
        line = {
            "time": _utc(record.created).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self._common,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = redacted_traceback(record.exc_info[1])
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """One readable line, for terminals; `worker` names the process where there are several."""

    def __init__(self, worker: str = ""):
        super().__init__()
        self._common = [f"worker={worker}"] if worker else []

    def format(self, record: logging.LogRecord) -> str:
        """Write the record and its extra `fields`."""
        fields = dict(getattr(record, "fields", {}))
        stages_ms = fields.pop("stages_ms", {})
        words = [f"{_utc(record.created).astimezone():%H:%M:%S}", *self._common]
        if record.levelno >= logging.WARNING:
            words.append(record.levelname)
        if record.getMessage() != REQUEST_EVENT:
            words.append(record.getMessage())
        words.extend(f"{name}={_one_line(value)}" for name, value in fields.items())
        words.extend(f"{name}={value}ms" for name, value in stages_ms.items())
        if record.exc_info and record.exc_info[1]:
            words.append("\n" + redacted_traceback(record.exc_info[1]).rstrip())
        return " ".join(words)


def configure_logging(stream: TextIO = sys.stdout, worker: str = "") -> None:
    """Send all logging of the process to `stream`: JSON lines, or readable ones where it is a terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(worker) if stream.isatty() else JsonFormatter(worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A reader of stdout that went away must not make every request print a stack trace.
    logging.raiseExceptions = False


def redacted_traceback(error: BaseException) -> str:
    """Write an exception's frames and classes, innermost last, without its messages: those may hold names."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "".join(
        "".join(traceback.format_tb(each.__traceback__))
        + f"{type(each).__module__}.{type(each).__qualname__}\n"
        for each in reversed(chain)
    )


def _utc(unix_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_s, dt.UTC)


def _one_line(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else ascii(text)
