"""Who makes the surveys of a blocking client's connections: a thread beside those that call."""

import threading
from collections.abc import Callable

from poolservice_client._transport.connections import Ask, Connection, Place, Survey


class WorkerDiscovery:
    """Makes surveys, each in a thread of its own, so that no call waits for them. For many threads.

    What a survey asks and closes is handed over with it and not kept: a client that nobody closed goes as soon as
    nobody has it.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_ended = False

    def start(
        self, survey: Survey, ask: Callable[[Connection], Place | None], close: Callable[[Connection], None]
    ) -> None:
        """Begin a survey and do not wait for it; after the end none begins.

        Args:
            survey: from ConnectionPool, which gives one at a time.
            ask: which worker a connection has reached; None where it does not answer.
            close: closes a connection that carries nothing.
        """
        with self._starting:
            if not self._has_ended:
                self._thread = threading.Thread(
                    target=_make, args=(survey, ask, close), name="poolservice-survey", daemon=True
                )
                self._thread.start()

    def end(self) -> None:
        """Begin no more surveys, and wait until the one that is under way has ended."""
        with self._starting:
            self._has_ended = True
            thread = self._thread
        if thread is not None:
            thread.join()


def _make(survey: Survey, ask: Callable[[Connection], Place | None], close: Callable[[Connection], None]) -> None:
    place: Place | None = None
    try:
        while True:
            step = survey.send(place)
            if isinstance(step, Ask):
                place = ask(step.connection)
            else:
                close(step.connection)
    except StopIteration:
        return
