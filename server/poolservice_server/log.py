"""Configures logging: one event per line on standard error, as text or JSON."""

import atexit
import faulthandler
import logging
import os
import sys
import traceback
from typing import Literal, NamedTuple, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from poolservice_server.stderr_capture import StderrCapture

# The loggers of this package follow --log-level; libraries log warnings at that level or above.
_OWN_LOGGERS = "poolservice_server"

_capture: StderrCapture | None = None


class WorkerLog(NamedTuple):
    """Where a worker logs. Its file descriptor 2 leads to the supervisor, which logs the lines that arrive there.

    Attributes:
        number: the worker's number, which each event has.
        descriptor: the file descriptor to which the worker writes its events.
    """

    number: int
    descriptor: int


def configure(
    level: Literal["debug", "info", "warning", "error"],
    output: Literal["text", "json"],
    worker: WorkerLog | None = None,
) -> None:
    """Configure structlog, and send the log records of libraries through it.

    If the format is JSON, each line on standard error becomes JSON, whoever writes it (see `stderr_capture`).

    Args:
        level: the lowest level that is logged.
        output: the format of the lines.
        worker: the log of a worker; None in the supervisor, and in a process without one.
    """
    stream = _stream(output, worker)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        *([] if worker is None else [_add_worker(worker.number)]),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(output, stream)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger(_OWN_LOGGERS).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # Pillow logs a damaged TIFF file at ERROR. It is the caller's error, which the response already reports.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # gRPC logs the value of any metadata that is not UTF-8, with a traceback. It may be a token, and a caller can send
    # one with each call.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_not_about_encoding)


def _is_not_about_encoding(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def report_failure(reason: str, command: str = "poolservice-server") -> None:
    """Write why the server cannot start: one sentence that begins with the command, or an event if the log is JSON."""
    if _capture is None:
        print(f"{command}: {reason}", file=sys.stderr)  # noqa: T201 - the command's output
    else:
        structlog.get_logger(__name__).error("cannot start", reason=reason)


def flush() -> None:
    """Write everything that has been logged, before the process ends without the interpreter's own clean-up."""
    sys.stdout.flush()
    if _capture is not None:
        _capture.stop()


def descriptor() -> int:
    """Return the file descriptor to which the log is written."""
    return 2 if _capture is None else _capture.original


def _add_worker(number: int) -> structlog.typing.Processor:
    """Return a processor that adds a worker's number to its events, on whichever thread they happen."""

    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["worker"] = number
        return event

    return add


def _stream(output: Literal["text", "json"], worker: WorkerLog | None) -> TextIO:
    """Return the stream of the log, and let crashes and foreign lines be logged."""
    global _capture
    if worker is not None:
        faulthandler.enable(2)
        return _open(worker.descriptor)
    if output == "text":
        faulthandler.enable(sys.stderr)
        return sys.stderr
    if _capture is None:
        _capture = StderrCapture()
        atexit.register(flush)
    # If this process crashes, no thread of it can log what is in the pipe. The stack is then written as plain lines.
    faulthandler.enable(_capture.original)
    return _open(_capture.original)


def _open(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _renderers(output: Literal["text", "json"], stream: TextIO) -> list[structlog.typing.Processor]:
    if output == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # structlog's rich tracebacks print all local variables, which contain callers' data, and take seconds.
    return [
        _escape_values,
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_print_traceback),
    ]


def _escape_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Escape control characters, with which a caller's text could forge lines or control a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _escape(value)
    return event


def _print_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Print a traceback with escaped control characters and indented lines, which cannot pass for lines of the log."""
    for line in "".join(traceback.format_exception(*exc_info)).splitlines():
        stream.write(f"\n    {_escape(line)}")


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
