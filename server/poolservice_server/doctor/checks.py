"""All checks, in the order in which their findings are shown."""

from collections.abc import Callable, Iterable, Iterator

from poolservice_server.doctor import (
    addresses,
    backbones,
    clock,
    collector,
    cpu,
    device,
    environment,
    limits,
    memory,
    packages,
    pool_heads,
    tls,
)
from poolservice_server.doctor.finding import Finding, problem
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings

Check = Callable[[Settings, Machine], Iterable[Finding]]

#: The last one imports torch, which takes seconds.
CHECKS: tuple[Check, ...] = (
    packages.check_python,
    packages.check_packages,
    packages.check_grpcio,
    cpu.check_cpu,
    memory.check_memory,
    limits.check_files,
    limits.check_processes,
    limits.check_decoders,
    limits.check_temporary_files,
    limits.check_core_files,
    addresses.check_addresses,
    addresses.check_exposure,
    collector.check_collector,
    tls.check_certificates,
    tls.check_secrets,
    clock.check_clock,
    environment.check_environment,
    backbones.check_backbones,
    pool_heads.check_pool_heads,
    device.check_device,
)


def findings(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Run all checks, and yield what they find."""
    for check in CHECKS:
        subject = check.__name__.removeprefix("check_")
        try:
            yield from check(settings, machine)
        except OSError as error:
            yield problem(subject, f"cannot be checked: {error.filename or 'the system'}: {error.strerror or error}")
