"""Waits for lines in the log of a server."""

from poolservice_server.testing import Service


def wait_for_log(server: Service, words: str) -> None:
    """Wait until the log contains `words`; fail if the server ends before. The test's own timeout ends the wait."""
    while words not in server.log():
        assert server.process.poll() is None, server.log()
