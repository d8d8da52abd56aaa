"""Run poolservice-server, and write how long each phase of its start took: `startup.py` runs this.

The server is the real one. The functions that end or begin a phase are replaced by ones that also look at the clock.
"""

import inspect
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from poolservice_server.glibc_tunables import restart_with_one_arena

_last = float(os.environ["STARTUP_BEGAN"])


def end_phase(name: str) -> None:
    """Write the time since the end of the phase before."""
    global _last
    now = time.monotonic()
    print(f"phase\t{name}\t{now - _last:.6f}", file=sys.stderr, flush=True)
    _last = now


restart_with_one_arena()
end_phase("interpreter, twice")


def measure(owner: Any, name: str, before: str, after: str = "") -> None:
    """Let a function or coroutine function end the phase `before` when it is called, and `after` when it returns."""
    function: Callable[..., Any] = getattr(owner, name)

    def measured(*arguments: Any, **keywords: Any) -> Any:
        if before:
            end_phase(before)
        result = function(*arguments, **keywords)
        if after:
            end_phase(after)
        return result

    async def measured_coroutine(*arguments: Any, **keywords: Any) -> Any:
        if before:
            end_phase(before)
        result = await function(*arguments, **keywords)
        end_phase(after)
        return result

    setattr(owner, name, measured_coroutine if inspect.iscoroutinefunction(function) else measured)


def import_serving_process(settings: Any) -> Any:
    """Import what a serving process imports, package by package, and measure its own phases."""
    end_phase("checks of address and files")
    with launch.permanent_objects():
        for name in ("numpy", "torch", "grpc.aio", "poolservice_server.process"):
            import_module(name)
            end_phase(f"import {name}")
    process = sys.modules["poolservice_server.process"]
    measure(process, "open_backend", "", "devices")
    measure(sys.modules["poolservice_server.assembled_service"], "calibrate", "batcher and threads", "calibration")
    measure(process.Readiness, "start", "gRPC server and metrics", "first computation")
    measure(process.GrpcServer, "start", "", "listening")
    measure(sys.modules["poolservice_server.serving"].Serving, "announce", "garbage collector")
    return choose_server(settings)


main = import_module("poolservice_server.__main__").main
launch: Any = import_module("poolservice_server.launch")
end_phase("import settings and log")
choose_server = launch._choose_server
launch._choose_server = import_serving_process
measure(launch, "run", "reading of settings")
sys.exit(main())
