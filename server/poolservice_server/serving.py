"""The announcement that a server is ready, for people and scripts that wait for it on standard output."""

import json
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from poolservice import __version__


class Serving(NamedTuple):
    """What a server announces once it serves.

    Attributes:
        device: the device, its description and torch's version.
        address: where it serves.
    """

    device: str
    address: str

    def announce(self, workers: int, output: Literal["text", "json"], *, name: str = "workers") -> None:
        """Print one line: a sentence that ends with the address, or JSON with the event "serving" and its address.

        Args:
            workers: the number of processes that serve.
            output: the format of the line.
            name: what they are called.
        """
        together = f" with {workers} {name}" if workers > 1 else ""
        line = f"poolservice {__version__} on {self.device}{together} is serving at {self.address}"
        if output == "json":
            event = {
                "event": "serving",
                "level": "info",
                "timestamp": datetime.now(UTC).isoformat(),
                "version": __version__,
                "device": self.device,
                name: workers,
                "address": self.address,
            }
            line = json.dumps(event)
        print(line, flush=True)  # noqa: T201 - scripts wait for this line and read the address in it
