"""`poolservice-server ray`: starts Ray on this machine, deploys the service on it, and stops both."""

import asyncio
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import structlog

from poolservice_server import exposure, listen_check, log
from poolservice_server.cpu_count import usable_cpus
from poolservice_server.ray.settings import RaySettings, check_honoured
from poolservice_server.serving import Serving
from poolservice_server.settings import SettingsError, load_as, unknown_variables

_log = structlog.get_logger(__name__)

_USAGE_ERROR = 2

#: The name of the application, and the path under which Serve's HTTP proxy, which nobody needs, knows it.
APPLICATION = "poolservice"
ROUTE_PREFIX = "/poolservice"

_PROXY = "poolservice_server.ray.proxy"

# Messages of more than 100 kB travel through Ray's object store, and leave it when their call ends.
_OBJECT_STORE_BYTES = 2**30


def main(arguments: Sequence[str]) -> int:
    """Run the service on Ray until SIGTERM or Ctrl-C; return the exit status.

    Args:
        arguments: the command line after `poolservice-server ray`.
    """
    try:
        _run(load_as(RaySettings, arguments))
    except SettingsError as error:
        log.report_failure(str(error), "poolservice-server ray")
        return _USAGE_ERROR
    except KeyboardInterrupt:
        # Ctrl-C before the service was ready.
        return 130
    return 0


def _run(settings: RaySettings) -> None:
    log.configure(settings.log_level, settings.log_format)
    for problem in unknown_variables(RaySettings.model_fields):
        _log.warning(problem)
    check_honoured(settings)
    exposure.check(settings)
    _check_proxy(settings)
    if find_spec("ray") is None:
        raise SettingsError(
            "`poolservice-server ray` needs Ray; install poolservice with its ray extra, in a clone of the repository "
            "with: pip install '.[server,ray]'"
        )
    with listen_check.reserve(settings.address) as address:
        pass
    stop = threading.Event()
    with running(settings, address) as device:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        Serving(device, address).announce(settings.replicas, settings.log_format, name="replicas")
        stop.wait()
        _log.info("draining the replicas")


@contextmanager
def running(settings: RaySettings, address: str) -> Iterator[str]:
    """Run the service on a Ray of its own until the end of the block; then let the replicas finish their calls.

    Args:
        settings: the settings.
        address: HOST:PORT, with the actual port.

    Yields:
        The device of a replica.

    Raises:
        SettingsError: the service cannot start.
    """
    # Read when Ray is imported, here and in its processes. As without Ray, a message of up to twice the limit is read
    # and refused with an error that says how to raise the limit.
    os.environ.setdefault("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str(2 * settings.max_message_bytes))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    from poolservice_server.ray.application import LOGGING, application, replica_options

    most = max(settings.replicas, settings.max_replicas)
    ray.init(
        address="local",
        # Replicas are placed by cores. More of them than cores are slow, but the user has asked for them.
        num_cpus=max(usable_cpus(), math.ceil(most * settings.replica_cpus)),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
    )
    try:
        _check_gpus(ray.cluster_resources().get("GPU", 0.0), settings)
        serve.start(
            http_options={"host": "127.0.0.1", "port": _free_port()},
            grpc_options={
                "port": int(address.rpartition(":")[2]),
                "grpc_servicer_functions": _servicer_functions(address),
            },
            logging_config=LOGGING,
        )
        service = application(settings, **replica_options(settings))
        try:
            handle = serve.run(service, name=APPLICATION, route_prefix=ROUTE_PREFIX)
        except RuntimeError:
            messages = [one.message for one in serve.status().applications[APPLICATION].deployments.values()]
            raise SettingsError(f"the replicas do not start: {reason_in(messages)}") from None
        yield asyncio.run(_device(handle))
        # Before the proxies end, which still have to send the responses.
        serve.delete(APPLICATION)
        serve.shutdown()
    finally:
        ray.shutdown()


def _check_gpus(gpus: float, settings: RaySettings) -> None:
    """Check that the replicas of the start fit on the GPUs of this machine: Ray would wait for more of them for ever.

    Raises:
        SettingsError: they do not.
    """
    needed = settings.replicas * settings.replica_gpus
    if needed > gpus:
        raise SettingsError(
            f"Ray finds {gpus:g} GPUs on this machine, and {settings.replicas} replicas with {settings.replica_gpus:g} "
            f"GPUs each need {needed:g} (--replicas, --replica-gpus)"
        )


def reason_in(messages: Sequence[str]) -> str:
    """Return why replicas do not start: the last line of the traceback that Serve reports for a deployment."""
    last_lines = [message.rstrip().rpartition("\n")[2] for message in messages]
    reasons = [line.partition("SettingsError: ")[2] or line for line in last_lines if line]
    return "; ".join(reasons) or "Serve gives no reason; its logs may have one"


async def _device(handle: Any) -> str:
    # A handle works in an event loop, whatever Serve's environment variables say.
    description: str = await handle.describe.remote()
    return description


def _check_proxy(settings: RaySettings) -> None:
    """Check that the proxy can tell the callers of this machine from others, if it has to.

    Raises:
        SettingsError: it cannot.
    """
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" and exposure.is_local(settings.address):
        raise SettingsError(
            "with RAY_SERVE_ENABLE_HA_PROXY=1, every caller seems to be on this machine, so that the service cannot "
            f"refuse the others; {settings.address} (--address) must be 0.0.0.0:PORT, with --insecure"
        )


def _servicer_functions(address: str) -> list[str]:
    """Return the names of the functions that add the methods to Serve's proxy, which listens on all interfaces."""
    pool_service = "add_local_pool_service" if exposure.is_local(address) else "add_pool_service"
    return [f"{_PROXY}.{pool_service}", f"{_PROXY}.add_health"]


def _free_port() -> int:
    with listen_check.reserve("127.0.0.1:0") as address:
        return int(address.rpartition(":")[2])
