"""The addresses on which the server will listen: free, permitted, and not open to anybody."""

import errno
import os
from collections.abc import Iterator

from structlog.testing import capture_logs

from poolservice_server import exposure, listen_check
from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.doctor.port_owner import port_owner
from poolservice_server.settings import Settings, SettingsError


def check_addresses(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Bind each address for a moment, as the server does before it starts."""
    for name in ("address", "metrics_address"):
        address = getattr(settings, name)
        if not address:
            continue
        other = {"address": "127.0.0.1:0", "metrics_address": None}
        other[name] = address
        try:
            listen_check.check(settings.model_copy(update=other))
        except SettingsError as error:
            reason = str(error).removesuffix(listen_check.IN_USE_ADVICE)
            yield problem("addresses", f"{reason}{_advice(reason, address, machine)}")
        else:
            yield ok("addresses", f"{address} (--{name.replace('_', '-')}) is free")


def check_exposure(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Check that other machines reach the server only over TLS and with a token or certificate."""
    with capture_logs() as events:
        try:
            exposure.check(settings)
        except SettingsError as error:
            yield problem("exposure", str(error))
            return
    for event in events:
        risk = event.get("risk")
        yield warning("exposure", f"{event['event']}: {risk}" if risk else event["event"])
    if not events:
        yield ok("exposure", "no other machine reaches the server without TLS and a token or certificate")


def _advice(sentence: str, address: str, machine: Machine) -> str:
    """Return what to add to the reason of the operating system."""
    if address.startswith("unix:"):
        return ""
    host, _, port = address.rpartition(":")
    if sentence.endswith(_reason(errno.EADDRINUSE)):
        return f": {port_owner(machine, int(port))} listens there; stop it, or choose another port"
    if sentence.endswith(_reason(errno.EADDRNOTAVAIL)):
        return f": {host} is no address of this machine; use 0.0.0.0 for all of its addresses"
    if sentence.endswith(_reason(errno.EACCES)):
        return f": only root may use port {port}; choose one above 1023"
    return ""


def _reason(number: int) -> str:
    return os.strerror(number)
