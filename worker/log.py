"""The worker's log: a thread of its own writes the lines, and nobody can silence ours."""

import json
import logging
import os
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

from rota.logs import JsonLines
from rota.worker.descriptor import Descriptor

MOST_WAITING = 2000  # lines that may wait to be written; more are left out, and counted
LEFT_OUT = "standard error was full, log lines were left out"
FLUSH = 1.0  # seconds that the last lines get to be written

STDERR = 2
OURS = ("rota", "rota.worker", "rota.task")


class Writer(logging.Handler):
    """Has a thread of its own write the lines, so that whoever logs waits for no reader.

    A pipe that nobody reads is full after 64 kB, and then each thread that logs would stand still,
    the heartbeat among them. Lines that find no place to wait are left out, and their number is
    logged when there is room again.

    A forked child has no such thread and writes by itself. Standard error is duplicated at the
    start, so that whoever replaces or closes it later does not silence us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._left_out = 0
        self._pid = os.getpid()
        try:
            self._output: Descriptor | None = Descriptor(os.dup(STDERR))
        except OSError:  # it was closed before we started
            self._output = None
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, soon; whatever is wrong with it, its author does not hear of it."""
        try:
            line = self.format(record)
        except Exception as error:
            line = json.dumps({"message": "a log line cannot be written", "error": repr(error)})
        self._put(line)

    def say(self, level: str, message: str, fields: dict[str, Any] | None = None) -> None:
        """Write a line of our own, without the help of ``logging``."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "logger": log.name,
            "message": message,
            "pid": os.getpid(),
            **(fields or {}),
        }
        self._put(json.dumps(line, default=str))

    def flush(self, seconds: float = FLUSH) -> None:
        """Wait until what was logged so far is written, or for so long."""
        if os.getpid() != self._pid:
            return
        reached = threading.Event()
        self._lines.put(reached)
        reached.wait(seconds)

    def _put(self, line: str) -> None:
        """Take one line; ``handle`` holds the lock of this handler meanwhile."""
        if os.getpid() != self._pid:
            self._write(f"{line}\n".encode())
        elif self._lines.qsize() < MOST_WAITING:
            self._lines.put(f"{line}\n".encode())
        else:
            self._left_out += 1

    def _write_all(self) -> None:
        while True:
            item = self._lines.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._write(item)
            if self._left_out and self._lines.empty():
                with self.lock:
                    count, self._left_out = self._left_out, 0
                self.say("WARNING", LEFT_OUT, {"lines": count})

    def _write(self, data: bytes) -> None:
        if self._output is None:
            return
        try:
            self._output = self._output.renewed(STDERR)
            while data:
                data = data[os.write(self._output.number, data) :]
        except OSError:
            return  # nobody reads any more, or the disk is full


class Log(logging.LoggerAdapter):
    """A logger for the worker's own threads.

    It raises nothing, whatever others did to what it needs (a test's ``time.time``, say), and
    ``logging.disable`` does not silence it.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 (logging's name)
        """Tell whether lines of this level are written."""
        return level >= self.logger.getEffectiveLevel()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log, as Python's loggers do."""
        try:
            if self.isEnabledFor(level):
                self.logger._log(level, msg, args, **kwargs)
        except Exception:
            if _writer is not None:
                _writer.say(logging.getLevelName(level), str(msg), **kwargs.get("extra", {}))


log = Log(logging.getLogger("rota.worker"), {})

_writer: Writer | None = None


def configure(level: str) -> None:
    """Send every log line of this process through the formatter."""
    global _writer
    _writer = Writer()
    _writer.setFormatter(JsonLines())
    logging.basicConfig(handlers=[_writer], level=level, force=True)
    logging.captureWarnings(True)
    ours = logging.getLogger(OURS[0])
    ours.setLevel(level)
    ours.propagate = False
    restore()


def restore() -> bool:
    """Have our own loggers write again; return whether somebody had silenced them.

    A module may configure logging for itself, and its own lines go where it says. Python's
    ``dictConfig`` disables all loggers that it does not name, unless it is told not to.
    """
    if _writer is None:
        return False
    loggers = [logging.getLogger(name) for name in OURS]
    silenced = _writer not in loggers[0].handlers or any(logger.disabled for logger in loggers)
    if silenced:
        loggers[0].handlers = [_writer]
        for logger in loggers:
            logger.disabled = False
    return silenced


def flush(seconds: float = FLUSH) -> None:
    """Wait until what was logged so far is written, or for so long."""
    if _writer is not None:
        _writer.flush(seconds)
