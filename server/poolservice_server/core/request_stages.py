"""The stages of a request that ran: when each started and how long it took."""

from typing import NamedTuple

from poolservice_server.core.request_record import RequestRecord


class Stage(NamedTuple):
    """A part of a request's time.

    Attributes:
        name: decode, preprocess, queue, compute or encode.
        started: when it started, in seconds of time.monotonic.
        seconds: how long it took.
    """

    name: str
    started: float
    seconds: float


def stages(record: RequestRecord) -> list[Stage]:
    """Return the stages of a request in order; none if it did not run.

    A request whose payload is prepared on a thread may wait twice: before that, and for its batch.
    """
    completed = record.completed
    if completed is None:
        return []
    found = []
    waited_until, queue_seconds = completed.compute_started, completed.queue_seconds
    if record.prepared is not None and completed.prepare_seconds:
        prepared = completed.prepare_started + completed.prepare_seconds
        # An unbatched request runs on the thread that prepared it, without another wait.
        again = max(0.0, completed.compute_started - prepared)
        first = max(0.0, queue_seconds - again)
        found.append(Stage("queue", completed.prepare_started - first, first))
        found += _preparation(record, completed.prepare_started, completed.prepare_seconds)
        waited_until, queue_seconds = completed.compute_started, again
    if queue_seconds or not found:
        found.append(Stage("queue", waited_until - queue_seconds, queue_seconds))
    found.append(Stage("compute", completed.compute_started, completed.compute_seconds))
    if record.encode_started:
        found.append(Stage("encode", record.encode_started, record.ended - record.encode_started))
    return found


def _preparation(record: RequestRecord, started: float, seconds: float) -> list[Stage]:
    prepared = record.prepared
    if prepared is None or not prepared.is_image:
        return [Stage("preprocess", started, seconds)]
    decode_seconds = seconds - prepared.preprocess_seconds
    found = [Stage("decode", started, decode_seconds)]
    if prepared.preprocess_seconds:
        found.append(Stage("preprocess", started + decode_seconds, prepared.preprocess_seconds))
    return found
