"""Those who learn how each request and each call has ended: metrics, the call log and tracing."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVarTuple

from poolservice_server import call_log, tracing
from poolservice_server.call_log import CallLog
from poolservice_server.core.call_record import CallObserver
from poolservice_server.core.request_record import RequestObserver
from poolservice_server.settings import Settings

Observed = TypeVarTuple("Observed")

# A collector that does not respond must not delay a stop for longer, however long the grace period is.
_EXPORT_SECONDS = 5.0


class Observers:
    """The observers of one process. Create it in the running event loop.

    Args:
        settings: the server's settings.
        worker: the number of this process among the workers.
        requests: further observers of requests.
        calls: further observers of calls.

    Attributes:
        observe_request: reports a request to all observers.
        observe_call: reports a call to all observers.
        need_ids: whether the observers read the ids of every call.

    Raises:
        SettingsError: a setting needs a package that is not installed.
    """

    observe_request: RequestObserver
    observe_call: CallObserver

    def __init__(
        self, settings: Settings, worker: int, requests: Sequence[RequestObserver], calls: Sequence[CallObserver]
    ) -> None:
        self._tracing = tracing.start(settings, worker)
        self._log = CallLog(
            settings.slow_call_seconds, logs_all=settings.access_log, logger=logging.getLogger(call_log.__name__)
        )
        self.need_ids = settings.access_log or self._tracing is not None
        of_requests, of_calls = [*requests, self._log.observe_request], [*calls, self._log.observe_call]
        if self._tracing is not None:
            of_requests.append(self._tracing.observe_request)
            of_calls.append(self._tracing.observe_call)
        self.observe_request = _all_of(of_requests)
        self.observe_call = _all_of(of_calls)

    async def close(self, seconds: float) -> None:
        """Export the last spans, within so many seconds, and write the last lines."""
        if self._tracing is not None:
            await self._tracing.close(min(seconds, _EXPORT_SECONDS))
        self._log.close()


def _all_of(observers: Sequence[Callable[[*Observed], None]]) -> Callable[[*Observed], None]:
    """Return a function that calls the observers in order; if there is one, the observer itself."""
    if len(observers) == 1:
        return observers[0]
    if len(observers) == 2:
        # The usual number. Without the loop, a request costs 0.1 microseconds less.
        first, second = observers

        def observe_two(*observed: *Observed) -> None:
            first(*observed)
            second(*observed)

        return observe_two

    def observe(*observed: *Observed) -> None:
        for one in observers:
            one(*observed)

    return observe
