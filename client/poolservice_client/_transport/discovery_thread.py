"""The background thread in which a blocking client runs worker discovery."""

import threading
from collections.abc import Callable

from poolservice_client._transport.connections import Connection
from poolservice_client._transport.worker_discovery import DiscoveryRun, Probe, WorkerIdentity


class DiscoveryThread:
    """Runs worker discovery in a thread per run, so that no call waits for it. Thread-safe.

    It keeps no reference to the client between runs, so that a client that was never closed can be garbage-collected.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(
        self,
        run: DiscoveryRun,
        probe: Callable[[Connection], WorkerIdentity | None],
        close: Callable[[Connection], None],
    ) -> None:
        """Start a run in the background, unless the thread was closed.

        Args:
            run: the run, from `WorkerDiscovery.begin`, which allows one at a time.
            probe: returns the worker that a connection reaches; None if it cannot be reached.
            close: closes a connection that has no calls.
        """
        with self._lock:
            if not self._is_closed:
                self._thread = threading.Thread(
                    target=_carry_out, args=(run, probe, close), name="poolservice-worker-discovery", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Wait for the current run to end, and start no more."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            thread.join()


def _carry_out(
    run: DiscoveryRun,
    probe: Callable[[Connection], WorkerIdentity | None],
    close: Callable[[Connection], None],
) -> None:
    identity: WorkerIdentity | None = None
    try:
        while True:
            step = run.send(identity)
            if isinstance(step, Probe):
                identity = probe(step.connection)
            else:
                close(step.connection)
    except StopIteration:
        return
