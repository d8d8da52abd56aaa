"""Starts the server: prepares the process, checks what can fail early, and chooses between one process and several."""

import os
import signal
from importlib.metadata import version

import structlog

from poolservice_server import exposure, listen_check, log, signals
from poolservice_server.file_limit import needed_files, possible_files, raise_file_limit
from poolservice_server.grpc_adapter import experiments, private_names
from poolservice_server.permanent_objects import permanent_objects
from poolservice_server.settings import Settings, read_tls_files, read_tokens, unknown_variables

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve with these settings until SIGTERM or SIGINT.

    Raises:
        SettingsError: the server cannot start with these settings.
    """
    log.configure(settings.log_level, settings.log_format)
    signals.ignore_reload()
    # Until the server handles signals, nothing is in progress that it would have to finish.
    signal.signal(signal.SIGTERM, _end_process)
    for problem in unknown_variables(Settings.model_fields):
        _log.warning(problem)
    if not experiments.disable_event_engine_listener():
        _log.warning(
            "unknown release of grpcio: its event engine reads the sockets, which costs an eighth of the throughput",
            grpcio=version("grpcio"),
        )
    if not raise_file_limit(needed_files(settings.max_connections)):
        _log.warning(
            "the limit on open files allows fewer connections than --max-connections",
            limit=possible_files(),
            needed=needed_files(settings.max_connections),
        )
    listen_check.check(settings)
    exposure.check(settings)
    _check_files(settings)
    settings = _choose_server(settings)
    # Imported last: both import grpc, which reads the environment that was just set, and the process imports torch,
    # which takes seconds.
    with permanent_objects():
        if settings.is_supervised:
            from poolservice_server.supervisor import run as serve
        else:
            from poolservice_server.process import run as serve
    serve(settings)


def _end_process(_number: int, _frame: object) -> None:
    log.flush()
    os._exit(0)


def _check_files(settings: Settings) -> None:
    """Check the files that the settings name. The serving process reads them again, after the import of torch."""
    read_tls_files(settings)
    for path, flag in (
        (settings.auth_token_file, "--auth-token-file"),
        (settings.metrics_token_file, "--metrics-token-file"),
    ):
        if path is not None:
            read_tokens(path, flag)


def _choose_server(settings: Settings) -> Settings:
    """Return the settings, with `plain_server` if the installed grpcio does not support the faster server."""
    if settings.plain_server:
        return settings
    if problems := private_names.missing("merging_event_loop"):
        _log.warning("slower event loop, because of the installed grpcio", grpcio=version("grpcio"), reason=problems)
    problems = private_names.missing("multi_accept_server")
    if not problems:
        return settings
    _log.warning(
        "serving with --plain-server, because of the installed grpcio", grpcio=version("grpcio"), reason=problems
    )
    return settings.model_copy(update={"plain_server": True})
