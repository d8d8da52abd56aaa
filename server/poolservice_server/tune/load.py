"""The load generator as the measuring program sees it: processes that call servers in rounds."""

import signal
from array import array
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple, Self

import numpy as np

from poolservice_server.tune import load_client
from poolservice_server.tune.job import Job
from poolservice_server.tune.sample import Round, Sample

# One process of the load generator reaches what one worker can do. With more cores, more of them are needed.
_CORES_PER_PROCESS = 4
_MOST_PROCESSES = 8

_CONTEXT = get_context("spawn")


class LoadFailed(Exception):
    """A call failed, and the message has the server's status and its own words; or a process has ended."""


class Measured(NamedTuple):
    """One round: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


class Load:
    """The processes of the load generator; use it as a context manager.

    Args:
        jobs: the jobs, which are sent to the processes once.
        cores: the number of cores of this machine.
    """

    def __init__(self, jobs: Sequence[Job], cores: int) -> None:
        self._jobs = jobs
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(max(1, min(_MOST_PROCESSES, cores // _CORES_PER_PROCESS))):
            pipe, other = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=load_client.run, args=(other, list(jobs)), daemon=True)
            # A new process inherits the blocked signal. Ctrl-C would otherwise end it while it imports.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            other.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def __enter__(self) -> Self:
        """Return the load generator."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.terminate()
            process.join()

    def measure(self, address: str, job: int, seconds: float) -> Measured:
        """Keep calling a server for some seconds.

        Args:
            address: the server's address.
            job: the number of the job.
            seconds: the duration; each process warms up before.

        Raises:
            LoadFailed: a call failed, or a process has ended.
        """
        one = self._jobs[job]
        shares = [
            one.concurrency // len(self._pipes) + (number < one.concurrency % len(self._pipes))
            for number in range(len(self._pipes))
        ]
        busy = [(pipe, share) for pipe, share in zip(self._pipes, shares, strict=True) if share]
        try:
            for pipe, share in busy:
                pipe.send(Round(address, job, share, seconds))
            samples: list[Sample] = [pipe.recv() for pipe, _ in busy]
        except (EOFError, ConnectionError):
            raise LoadFailed("a process that generates the load has ended") from None
        for sample in samples:
            if sample.failure:
                raise LoadFailed(sample.failure)
        latencies = array("d")
        for sample in samples:
            latencies.frombytes(sample.latencies)
        rate = sum(sample.calls / sample.seconds for sample in samples) * one.requests
        p50, p99 = np.percentile(np.asarray(latencies) * 1e3, (50, 99))
        return Measured(rate, float(p50), float(p99))

    def forget(self, address: str) -> None:
        """Close the connections to a server that is about to stop."""
        for pipe in self._pipes:
            # A process that has ended has no connections.
            with suppress(BrokenPipeError):
                pipe.send(address)
