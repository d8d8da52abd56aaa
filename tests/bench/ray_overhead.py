"""`make bench-ray`: compare the service on Ray Serve with the same service without Ray, on one machine.

Both have one process that computes: a replica and a server. The client shares the cores with them, and on Ray also
Serve's proxy and Ray's own processes do, so each call's CPU time counts for more than the throughput: a machine of a
cluster gives its cores to the calls of many clients.

The columns "machines" say how many machines with Ray do as many calls as one without.
"""

import asyncio
import json
import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import grpc.aio
import typer
from rich.console import Console
from rich.table import Table

import children
from children import Server
from jobs import Job, make_jobs
from load import METHOD, Measurement, closed_loop, load_average, rotated
from poolservice.v1 import pool_pb2

CONCURRENCIES = (8, 32)
# With more batches of images, the queue would be full, and their requests would be refused.
BATCH_CONCURRENCIES = (8,)
PLAIN, RAY, HAPROXY = "without Ray", "Ray Serve", "Ray Serve, HAProxy"

_RAY = ("-m", "poolservice_server", "ray", "--device", "cpu")

# The environment in which Serve lets HAProxy pass calls to the replicas, past its own proxy.
_HAPROXY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}

# The requests in one message of PoolBatch, as `map` sends them.
_BATCHES = {"J2": 16, "J4": 64}

console = Console(width=150)


class Work(NamedTuple):
    """Messages to send.

    Attributes:
        name: the job and, for a batch, its size.
        method: the path of the method.
        message: the encoded message.
        requests: the number of requests in it.
        concurrencies: how many messages are in progress at a time.
    """

    name: str
    method: str
    message: bytes
    requests: int
    concurrencies: tuple[int, ...]


def command(
    seconds: Annotated[float, typer.Option(help="Duration of each measurement in seconds.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds over all servers; the output shows medians.")] = 3,
    haproxy: Annotated[bool, typer.Option(help="Let HAProxy pass the calls, not Serve's own proxy.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")] = None,
) -> None:
    """Measure J1, J2 and J4, and J2 and J4 in batches."""
    children.end_on_sigterm()
    works = [work for job in make_jobs() if job.name != "J3" for work in _works(job)]
    with ExitStack() as stack:
        # Not both ways of Ray at once: an idle Ray takes a part of a core.
        if haproxy:
            os.environ.update(_HAPROXY_ENVIRONMENT)
        address = ("--address", "0.0.0.0:0", "--insecure") if haproxy else ("--address", "127.0.0.1:0")
        servers = {
            PLAIN: stack.enter_context(children.running(*children.POOLSERVICE)),
            HAPROXY if haproxy else RAY: stack.enter_context(children.running(*_RAY, *address)),
        }
        measured = asyncio.run(_run(works, servers, seconds, rounds))
    table = Table(title="requests per second and the service's CPU time per request")
    for column in ("job", "calls", *(f"{name}: {unit}" for name in servers for unit in ("1/s", "µs", "p50 ms"))):
        table.add_column(column, justify="right")
    for name in list(servers)[1:]:
        table.add_column(f"machines, {name}", justify="right")
    for work in works:
        for concurrency in work.concurrencies:
            medians = {name: _median(measured[work.name, concurrency, name]) for name in servers}
            cells = [
                cell
                for one in medians.values()
                for cell in (
                    f"{one.rate * work.requests:,.0f}",
                    f"{one.server_us / work.requests:,.0f}",
                    f"{one.p50_ms:.1f}",
                )
            ]
            plain, *others = medians.values()
            table.add_row(
                work.name, str(concurrency), *cells, *(f"{one.server_us / plain.server_us:.1f}" for one in others)
            )
    console.print(table)
    console.print(f"load average of the machine: {load_average():.1f}")
    if out is not None:
        out.write_text(
            json.dumps({" / ".join(map(str, key)): [one._asdict() for one in value] for key, value in measured.items()})
        )


def _works(job: Job) -> list[Work]:
    single = Work(job.name, METHOD, job.request, 1, CONCURRENCIES)
    if job.name not in _BATCHES:
        return [single]
    count = _BATCHES[job.name]
    batch = pool_pb2.PoolBatchRequest(requests=[pool_pb2.PoolRequest.FromString(job.request)] * count)
    return [
        single,
        Work(f"{job.name} x {count}", f"{METHOD}Batch", batch.SerializeToString(), count, BATCH_CONCURRENCIES),
    ]


Measurements = dict[tuple[str, int, str], list[Measurement]]


async def _run(works: list[Work], servers: dict[str, Server], seconds: float, rounds: int) -> Measurements:
    measured: Measurements = {}
    for number in range(rounds):
        for work in works:
            for concurrency in work.concurrencies:
                for name in rotated(list(servers), number):
                    one = await _measure(work, servers[name], concurrency, seconds)
                    measured.setdefault((work.name, concurrency, name), []).append(one)
    return measured


async def _measure(work: Work, server: Server, concurrency: int, seconds: float) -> Measurement:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        call: Any = channel.unary_unary(work.method)
        return await closed_loop(server, [call], work.message, concurrency=concurrency, seconds=seconds)


def _median(measurements: list[Measurement]) -> Measurement:
    return Measurement(*map(statistics.median, zip(*measurements, strict=True)))


if __name__ == "__main__":
    typer.run(command)
