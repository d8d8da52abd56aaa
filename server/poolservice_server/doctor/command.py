"""The command `poolservice-server doctor`."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from poolservice_server.backbones.folder_files import printable
from poolservice_server.doctor.checks import findings
from poolservice_server.doctor.finding import Finding
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import SettingsError
from poolservice_server.subcommand import USAGE_ERROR, load_settings, make_app, run

_NAME = "doctor"


def _doctor(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTINGS", help="The server's flags, as `poolservice-server --help` lists them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of lines.")] = False,
) -> None:
    """Check whether this machine can run the server with these settings, and say what to change.

    The settings come from the flags, the environment and the file of --config, as they do for the server. Checked are
    packages, device, cores, memory, limits, addresses, certificates, tokens, clock, environment, backbones and heads.
    Nothing is changed, and no secret is printed.
    """
    found = list(_shown(findings(load_settings(context, settings or []), Machine()), as_json=as_json))
    counts = Counter(finding.state for finding in found)
    if as_json:
        report = {
            "problems": counts["problem"],
            "warnings": counts["warning"],
            "findings": [finding._asdict() for finding in found],
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(f"{_count(counts['problem'], 'problem')}, {_count(counts['warning'], 'warning')}")
    if counts["problem"]:
        raise typer.Exit(1)


app = make_app(
    _NAME, _doctor, epilog="Exit statuses: 0 no problem, though perhaps warnings; 1 problems; 2 a setting is wrong."
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status. An error is one sentence on stderr."""
    return run(app, _NAME, arguments, {SettingsError: USAGE_ERROR})


def _shown(found: Iterable[Finding], *, as_json: bool) -> Iterable[Finding]:
    """Yield the findings, and print a line for each as soon as it is known."""
    for finding in found:
        if not as_json:
            typer.echo(f"{finding.state:8} {finding.check:16} {printable(finding.sentence)}")
            sys.stdout.flush()
        yield finding


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
