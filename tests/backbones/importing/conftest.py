"""What the tests of the import share."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from poolservice_server.backbones.command.app import main


class Done(NamedTuple):
    """A command that ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line on stderr, without the command's name."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("poolservice-server backbone: ")


Command = Callable[..., Done]


@pytest.fixture
def backbone(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `poolservice-server backbone` with arguments."""

    def run(*arguments: object) -> Done:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return run
