"""The pool heads that the settings name."""

from collections.abc import Iterator

from structlog.testing import capture_logs

from poolservice_server.backbones.counted import counted
from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.pool_heads.loading import load_pool_heads
from poolservice_server.settings import Settings, SettingsError


def check_pool_heads(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Read each head's folder as the server does."""
    if settings.heads is None:
        return
    try:
        # The broken ones are returned, so what the server would log is not repeated.
        with capture_logs():
            heads = load_pool_heads(settings)
    except SettingsError as error:
        yield problem("heads", str(error))
        return
    for broken in heads.broken:
        yield warning("heads", f"the server starts without the head {broken.name}: {broken.reason}")
    if heads.serving:
        yield ok("heads", f"{counted(len(heads.serving), 'head')} complete ({', '.join(heads.serving)})")
