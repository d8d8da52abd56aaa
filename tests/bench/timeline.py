"""`make bench-timeline`: show one second of load, with what client and server do at each moment of it.

client encode     converting inputs and writing messages
client send       handing messages to gRPC
to the server     messages that the client has sent and the server has not taken yet
server decode     splitting messages, validating them, viewing the payload as an array
server compute    running batches on the device
server encode     turning results into messages
to the client     messages that the server is sending and the client has not taken yet
client decode     reading messages and distributing the results

A side is busy while its event loop runs, or one of its steps on another thread. gRPC's own threads and the kernel,
which read and copy messages, are not in these figures, but they are in the CPU time. A side that is ready to run and
has no core counts as busy, so the figures are useful only on an otherwise idle machine.

The times are recorded by functions that replace those of client and server in this program and in
tests/bench/timeline_server.py. They slow down the load a little.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

import children
import timeline_client
import timeline_loads
from load import load_average
from timeline_figure import Panel, draw
from timeline_loads import Clock, Load, Measured
from timeline_spans import Intervals, Recorder, Recording, Step, both, fraction, outside

SERVER = str(Path(__file__).with_name("timeline_server.py"))

_CLIENT = (Step.CLIENT_LOOP, Step.CLIENT_ENCODE, Step.CLIENT_SEND, Step.CLIENT_DECODE)
_SERVER = (Step.SERVER_LOOP, Step.SERVER_DECODE, Step.SERVER_COMPUTE, Step.SERVER_ENCODE)

_STEPS = (
    "client encode",
    "client send",
    "to the server",
    "server decode",
    "server compute",
    "server encode",
    "to the client",
    "client decode",
)

console = Console()


class Timeline(NamedTuple):
    """One drawn second.

    Attributes:
        load: what the client does.
        measured: when the second was, and how much was done in it.
        rows: when each step ran, by the step's name.
        client, server: when each side was busy.
        with_server: when at least one message was on its way to the server or in it.
        messages: the number of messages that the client sent in the second.
        in_flight: the average number of messages in flight.
    """

    load: Load
    measured: Measured
    rows: dict[str, Intervals]
    client: Intervals
    server: Intervals
    with_server: Intervals
    messages: int
    in_flight: float

    def of_second(self, intervals: Intervals) -> float:
        """Return the fraction of the second that the intervals fill."""
        return fraction(intervals, self.measured.start, self.measured.end)

    def fractions(self) -> dict[str, float]:
        """Return the fractions of the second: of each state of both sides, then of each step."""
        start, end = self.measured.start, self.measured.end
        client, server, together = map(self.of_second, (self.client, self.server, both(self.client, self.server)))
        starved = both(outside(self.server, start, end), outside(self.with_server, start, end))
        states = {
            "client": client,
            "server": server,
            "both": together,
            "none": 1 - client - server + together,
            "server without a message": self.of_second(starved),
        }
        return states | {name: self.of_second(intervals) for name, intervals in self.rows.items()}


def command(
    load: Annotated[
        list[str] | None, typer.Option(help="pool-100kb, map-2kb, ...; may be repeated. Default: all; see --list.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The figure: a .png or .svg file.")] = Path("timeline.png"),
    list_loads: Annotated[bool, typer.Option("--list", help="Show the loads and do nothing.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the fractions to this file as JSON.")] = None,
) -> None:
    """Draw one second of each load, and print how much of it each side was busy."""
    children.end_on_sigterm()
    known = {one.name: one for one in timeline_loads.make_loads()}
    if list_loads:
        for name, one in known.items():
            console.print(f"{name:20} {one.title}")
        return
    if unknown := set(load or ()) - set(known):
        raise typer.BadParameter(f"no such load: {', '.join(sorted(unknown))}; the loads are {', '.join(known)}")
    load_before = load_average()
    timelines = _record([known[name] for name in load or known])
    console.print(_table(timelines))
    console.print(_step_table(timelines))
    waiting = statistics.fmean(one.measured.waiting for one in timelines)
    console.print(f"threads that were ready to run and had no core: {waiting:.1f} on average")
    console.print(f"load average of the machine: {load_before:.1f} before, {load_average():.1f} after")
    draw([Panel(one.load.title, one.measured.start, one.measured.end, one.rows) for one in timelines], output)
    console.print(f"wrote {output}")
    if out is not None:
        out.write_text(json.dumps([_as_json(one) for one in timelines], indent=2))


def _record(loads: list[Load]) -> list[Timeline]:
    recorder = Recorder()
    timeline_client.record(recorder)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "server.npy")
        with children.running(SERVER, str(file), *children.POOLSERVICE[2:]) as server:
            for load in loads:
                clock = Clock(server)
                load.run(server, recorder, clock)
                measured.append(clock.measured())
        rows = np.concatenate((recorder.recorded(), np.load(file)))
    return [_timeline(load, one, rows) for load, one in zip(loads, measured, strict=True)]


def _timeline(load: Load, measured: Measured, rows: Any) -> Timeline:
    whole = Recording(rows, measured.began, measured.ended)
    second = whole.within(measured.start, measured.end)
    in_flight = whole.moments(Step.RESPONSE_RECEIVED).sum() - whole.moments(Step.REQUEST_SENT).sum()
    return Timeline(
        load,
        measured,
        {
            "client encode": second.union(Step.CLIENT_ENCODE),
            "client send": second.union(Step.CLIENT_SEND),
            "to the server": whole.between(Step.REQUEST_SENT, Step.REQUEST_RECEIVED),
            "server decode": second.union(Step.SERVER_DECODE),
            "server compute": second.union(Step.SERVER_COMPUTE),
            "server encode": second.union(Step.SERVER_ENCODE),
            "to the client": whole.between(Step.RESPONSE_SENT, Step.RESPONSE_RECEIVED),
            "client decode": second.union(Step.CLIENT_DECODE),
            "client": second.union(*_CLIENT),
            "server": second.union(*_SERVER),
        },
        second.union(*_CLIENT),
        second.union(*_SERVER),
        whole.between(Step.REQUEST_SENT, Step.RESPONSE_SENT),
        len(second.moments(Step.REQUEST_SENT)),
        float(in_flight / (measured.ended - measured.began)),
    )


def _table(timelines: list[Timeline]) -> Table:
    table = _empty_table("fraction of the second in which ... is busy")
    for column in ("items/s", "in flight", "client", "server", "both", "none", "starved", "cores"):
        table.add_column(column, justify="right")
    for one in timelines:
        fractions = one.fractions()
        states = ("client", "server", "both", "none", "server without a message")
        table.add_row(
            one.load.name,
            f"{one.measured.rate:,.0f}",
            f"{one.in_flight:.1f}",
            *(f"{fractions[name]:.2f}" for name in states),
            f"{one.measured.client_cores:.2f}+{one.measured.server_cores:.2f}",
        )
    table.caption = (
        "in flight: messages, on average; starved: the server is idle and no message is on its way to it; "
        "cores: used by client + server"
    )
    return table


def _step_table(timelines: list[Timeline]) -> Table:
    table = _empty_table("fraction of the second in which ... is running or on its way")
    for name in _STEPS:
        table.add_column(name, justify="right")
    for one in timelines:
        fractions = one.fractions()
        table.add_row(one.load.name, *(f"{fractions[name]:.2f}" for name in _STEPS))
    return table


def _empty_table(title: str) -> Table:
    # With this frame, every number fits into 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("load", no_wrap=True)
    return table


def _as_json(timeline: Timeline) -> dict[str, Any]:
    return {
        "load": timeline.load.name,
        "title": timeline.load.title,
        "messages": timeline.messages,
        "in_flight": timeline.in_flight,
        **timeline.measured._asdict(),
        "fractions": timeline.fractions(),
    }


if __name__ == "__main__":
    typer.run(command)
