"""The installed packages: missing ones, too old ones, and those whose version the server was not tested with."""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.doctor.versions import version_of
from poolservice_server.grpc_adapter import private_names
from poolservice_server.installed import is_installed
from poolservice_server.settings import Settings

# A requirement such as torch>=2.4; extra == 'server', as the metadata of a package has it.
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\d.]+)(?:;(.*))?")
_EXTRA = re.compile(r"extra == ['\"](\w+)['\"]")

# The modules of each extra. Those of the extra backbones are looked for with the backbones.
_MODULES = {
    "server": ("torch", "uvloop", "prometheus_client", "grpc_reflection"),
    "backbones": (),
    "otel": ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"),
    "channelz": ("grpc_channelz",),
}


def check_python(_settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Check the interpreter and the operating system."""
    bits = 64 if sys.maxsize > 2**32 else 32
    name = f"{platform.python_implementation()} {platform.python_version()} with {bits} bits"
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if bits == 32:
        yield problem("python", f"{name}: torch needs 64 bits; install a Python of 64 bits")
    elif sys.flags.optimize or sys.flags.dev_mode:
        yield warning("python", f"{name} runs with -O or in development mode; start the server without either")
    else:
        yield ok("python", f"{name}, {system}")
    if platform.system() != "Linux":
        yield warning("system", f"{system}: the server is tested on Linux only, which production should use")


def check_packages(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Check that each package that this configuration needs is there and new enough."""
    extras = list(_extras(settings))
    missing = [name for extra in extras for name in _MODULES[extra] if not is_installed(name)]
    if missing:
        yield problem(
            "packages",
            f"the server needs {', '.join(missing)} with these settings; install poolservice with its extras, in a "
            f"clone of the repository with: pip install '.[{','.join(extras)}]'",
        )
    try:
        requirements = requires("poolservice") or []
    except PackageNotFoundError:
        yield warning("packages", "poolservice runs from a folder and is not installed, so no versions were compared")
        return
    old = list(_too_old(requirements, extras))
    for name, installed, least in old:
        yield problem(
            "packages", f"{name} {installed} is installed, and {least} is the oldest that works: pip install -U {name}"
        )
    if not missing and not old:
        yield ok(
            "packages", f"poolservice {version_of('poolservice')}, torch {version_of('torch')}; none is missing or old"
        )


def check_grpcio(_settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Compare grpcio with the releases that the tests ran with, and protobuf's implementation with the fast one."""
    installed = version_of("grpcio")
    problems = [text for user in private_names.USERS for text in private_names.missing(user)]
    tested = ", ".join(private_names.TESTED_VERSIONS)
    if problems:
        yield warning(
            "grpcio",
            f"grpcio {installed} lacks what the faster server uses ({problems[0]}), so that calls cost more; install "
            f"{private_names.TESTED_VERSIONS[-1]}, the newest tested release",
        )
    elif installed not in private_names.TESTED_VERSIONS:
        yield warning(
            "grpcio",
            f"grpcio {installed} has everything that the server uses, but the tests ran with {tested}; install one of "
            "these if calls fail in unknown ways",
        )
    else:
        yield ok("grpcio", f"grpcio {installed} is one of the tested releases: {tested}")
    # Imported here: protobuf chooses its implementation when it is imported.
    from google.protobuf.internal import api_implementation

    if (implementation := api_implementation.Type()) == "python":
        yield warning(
            "protobuf",
            f"protobuf {version_of('protobuf')} runs in pure Python, which is many times slower; unset "
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a wheel for this machine",
        )
    else:
        yield ok("protobuf", f"protobuf {version_of('protobuf')} with its {implementation} implementation")


def _extras(settings: Settings) -> Iterator[str]:
    """Yield the extras that these settings need."""
    yield "server"
    if settings.backbone or settings.backbones or settings.heads:
        yield "backbones"
    if settings.otlp_endpoint:
        yield "otel"
    if settings.channelz:
        yield "channelz"


def _too_old(requirements: list[str], extras: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, version and least version of each package that is older than a requirement."""
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            continue
        name, least, marker = match.groups()
        extra = _EXTRA.search(marker or "")
        if extra and extra[1] not in extras:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            # The modules that are needed were looked for; others are optional, or of other platforms.
            continue
        if _release(installed) < _release(least):
            yield name, installed, least


def _release(text: str) -> tuple[int, ...]:
    """Return the release of a version as numbers, without zeros at its end: (2, 13) for 2.13.0+cpu."""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
