"""Clients that call a service through the SDK and check each result."""

import threading
import time
from collections import Counter

import numpy as np

from poolservice_client import MaxPool2d, PoolClient, RetryPolicy
from poolservice_client.errors import PoolError

_SHAPE = (3, 64, 64)
# Every call is retried until its timeout.
_RETRIES = RetryPolicy(max_attempts=20, max_backoff=1.0, budget=1.0, burst=100_000)


class Clients:
    """Threads that call one service until they are stopped.

    Attributes:
        right: the number of calls with the right result.
        failed: the errors of the other calls, by class and message.
        wrong: the number of calls with a wrong result.
    """

    def __init__(self, address: str, threads: int, *, timeout: float) -> None:
        self.right = 0
        self.wrong = 0
        self.failed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._client = PoolClient(address, timeout=timeout, retries=_RETRIES)
        self._threads = [threading.Thread(target=self._call, args=(seed,)) for seed in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread finish its call, and wait for it."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def wait_for(self, right: int, seconds: float) -> None:
        """Wait until this many further calls were right."""
        target, end = self.right + right, time.monotonic() + seconds
        while self.right < target:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.right} calls were right after {seconds} s, not {target}: {self.failed}")
            self._stopped.wait(0.01)

    def _call(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        while not self._stopped.is_set():
            planes = generator.random(_SHAPE, np.float32)
            expected = planes.reshape(3, 32, 2, 32, 2).max((2, 4))
            try:
                result = np.asarray(self._client.pool(planes, MaxPool2d(2)))
            except PoolError as error:
                with self._lock:
                    self.failed[f"{type(error).__name__}: {error}"] += 1
                continue
            with self._lock:
                if np.array_equal(result, expected):
                    self.right += 1
                else:
                    self.wrong += 1
