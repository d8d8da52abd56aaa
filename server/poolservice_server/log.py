"""Configures logging: one event per line on standard error, as text or JSON."""

import logging
import sys
from typing import Literal

import structlog


def configure(level: Literal["debug", "info", "warning", "error"], output: Literal["text", "json"]) -> None:
    """Configure structlog, and send the log records of libraries through it.

    Args:
        level: the lowest level that is logged.
        output: the format of the lines.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(output)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Pillow logs a damaged TIFF file at ERROR. It is the caller's error, which the response already reports.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _renderers(output: Literal["text", "json"]) -> list[structlog.typing.Processor]:
    if output == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # structlog's rich tracebacks print all local variables, which contain callers' data, and take seconds.
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
