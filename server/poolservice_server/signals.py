"""Delivers signals through a socket, so that a thread can wait for them while the main thread is busy.

Python runs a signal handler on the main thread, between two bytecodes. A main thread in a long computation would notice
a signal only afterwards. The interpreter's C handler writes to the socket immediately.
"""

import atexit
import signal
import socket

_READ_BYTES = 256


class SignalSocket:
    """Receives signals from now on until the process ends. Create it on the main thread.

    Args:
        numbers: the signals, whose default actions no longer apply.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._readable, self._wakeup = socket.socketpair()
        self._readable.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _ignore)
        # The interpreter restores the default actions before it ends, except of ignored signals. A late signal would
        # then kill a server that has stopped, and change its exit status.
        atexit.register(_ignore_from_now_on, numbers)

    def fileno(self) -> int:
        """Return the file descriptor, which is readable when a signal has arrived."""
        return self._readable.fileno()

    def read(self) -> list[signal.Signals]:
        """Return the signals that have arrived since the last call, in order."""
        try:
            return [signal.Signals(number) for number in self._readable.recv(_READ_BYTES)]
        except BlockingIOError:
            return []


def ignore_reload() -> None:
    """Ignore SIGHUP until a `SignalSocket` receives it: it asks a server to read its files again, not to end."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _ignore_from_now_on(numbers: tuple[signal.Signals, ...]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the socket has reported the signal."""
