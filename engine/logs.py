"""Lines of the log: JSON, or words for a terminal, and what must never be in them. Knows nothing of rpcs."""

from __future__ import annotations

import datetime as dt
import logging
import queue
import sys
import traceback
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

import msgspec

LOGGER = logging.getLogger("identiface")
REQUEST_EVENT = "rpc"
"""What the line of a request calls itself."""
LINES_WAITING_MAX = 10_000
"""Lines not yet written; more are dropped, and how many is said."""
FLUSH_S_MAX = 2.0
"""How long the end of a process waits for its last lines to be written."""


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


class BackgroundHandler(QueueHandler):
    """Has another handler write from a thread of its own.

    Writing a line waits for the disk, 100 ms and more while a build syncs its files there, or for ever for
    the reader of a pipe who stopped reading; requests do not.
    """

    def __init__(self, target: logging.Handler):
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(LINES_WAITING_MAX)
        super().__init__(self._lines)
        self._listener = QueueListener(self._lines, target)
        self._listener.start()
        self._num_dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: it stays in this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add a line without waiting; called under the handler's lock."""
        try:
            if self._num_dropped:
                self._lines.put_nowait(_dropped(self._num_dropped))
                self._num_dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._num_dropped += 1

    def flush(self) -> None:
        """Wait until all lines are written, `FLUSH_S_MAX` at most."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_S_MAX)

    def close(self) -> None:
        """Write what is left and end the thread, unless it is stuck."""
        self.flush()
        if not self._lines.unfinished_tasks:
            self._listener.stop()
        super().close()


def _dropped(num: int) -> logging.LogRecord:
    fields = {"fields": {"num_lines": num}}
    message = "lines of the log were dropped: they came faster than they could be written"
    return LOGGER.makeRecord(LOGGER.name, logging.WARNING, __file__, 0, message, (), None, extra=fields)


def configure_logging(stream: TextIO | None = None, worker: str = "") -> None:
    """Send all logging of the process to `stream`: JSON lines, or readable ones where it is a terminal.

    None: to stdout.
    """
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(worker) if stream.isatty() else JsonFormatter(worker))
    logging.basicConfig(level=logging.INFO, handlers=[BackgroundHandler(handler)], force=True)
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
