"""Runs poolservice-server on a CPU that fails on request.

    FAULT_FOLDER=folder python tests/server/server_with_failing_device.py FLAGS...

While the folder has a file `fails`, all work of the device fails. While it has a pipe `hangs`, work waits until
somebody opens and closes the pipe. The server looks at its device every few milliseconds, so that tests need not wait.
The environment variable STUCK_TICKS says after how many looks a computation is stuck; without it, none ever is.

Worker processes import this file as well, so they have the same device.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from poolservice_server import process, readiness
from poolservice_server.__main__ import main
from poolservice_server.backend import circuit_breaker, selection
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceFailed
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.readiness import Readiness
from poolservice_server.stop import Stop, never

_FOLDER = Path(os.environ["FAULT_FOLDER"])
_TICK_SECONDS = 0.01


class FailingCpu(CpuDevice):
    """The CPU, which fails or hangs while files say so."""

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Fail, hang, or run the batch."""
        hangs = _FOLDER / "hangs"
        if hangs.exists():
            hangs.read_bytes()
        if (_FOLDER / "fails").exists():
            raise DeviceFailed("the device fell off the bus")
        return super().run(stage, payloads, stop)


def replace(module: Any, name: str, value: object) -> None:
    """Replace an attribute that the module has."""
    getattr(module, name)
    setattr(module, name, value)


replace(selection, "CpuDevice", FailingCpu)
replace(process, "Readiness", partial(Readiness, tick_seconds=_TICK_SECONDS))
replace(readiness, "_STUCK_TICKS", int(os.environ.get("STUCK_TICKS", 10**9)))
replace(circuit_breaker, "_FIRST_PROBE_SECONDS", _TICK_SECONDS)
replace(circuit_breaker, "_MAX_PROBE_SECONDS", _TICK_SECONDS)
if __name__ == "__main__":
    sys.exit(main())
