"""Metrics of callers: their requests and computing time, for a bounded number of names."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

#: The number of names that have series of their own. The names are those of an operator's tokens or certificates, but
#: a certificate authority may issue any number of them.
MAX_NAMES = 100

_NAMED = ("token:", "certificate:")


class _Caller:
    """The requests of one caller that have ended, by code, and their computing time in seconds."""

    __slots__ = ("codes", "seconds")

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.seconds = 0.0


class CallerMetrics(Collector):
    """The metrics of the callers. The event loop updates them."""

    def __init__(self) -> None:
        self._named: dict[str, _Caller] = {}
        self._anonymous = _Caller()
        self._other = _Caller()
        # The caller of the last request, which has often sent the next one, too.
        self._last = ""
        self._last_one = self._anonymous

    def count(self, caller: str, code: str, seconds: float) -> None:
        """Count a request that ended.

        Args:
            caller: who sent it: a name, or the address of a connection.
            code: the name of its gRPC status.
            seconds: its share of the computing time of its batch.
        """
        if caller != self._last:
            self._last, self._last_one = caller, self._caller(caller)
        one = self._last_one
        one.codes[code] += 1
        one.seconds += seconds

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        requests = CounterMetricFamily(
            "poolservice_caller_requests",
            "Requests that have ended, by caller and gRPC status.",
            labels=["caller", "code"],
        )
        seconds = CounterMetricFamily(
            "poolservice_caller_compute_seconds",
            "Computing time of a caller's requests; a batch is shared equally between its requests.",
            labels=["caller"],
        )
        # Copied, because this runs on another thread while the event loop counts.
        for name, caller in (*self._named.copy().items(), ("anonymous", self._anonymous), ("other", self._other)):
            codes = caller.codes.copy()
            for code, count in codes.items():
                requests.add_metric([name, code], count)
            if codes:
                seconds.add_metric([name], caller.seconds)
        yield requests
        yield seconds

    def _caller(self, caller: str) -> _Caller:
        one = self._named.get(caller)
        if one is not None:
            return one
        if not caller.startswith(_NAMED):
            return self._anonymous
        if len(self._named) >= MAX_NAMES:
            return self._other
        one = self._named[caller] = _Caller()
        return one
