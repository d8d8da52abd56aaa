"""The command `poolservice-server tune`."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from poolservice_server.cpu_count import usable_cpus
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.subcommand import INTERRUPTED, USAGE_ERROR, load_settings, make_app, run
from poolservice_server.tune.candidates import TUNED
from poolservice_server.tune.job import Job, make_job
from poolservice_server.tune.jobs_file import WrongJobs, read_jobs
from poolservice_server.tune.load import LoadFailed
from poolservice_server.tune.report import as_json, as_text, check_as_text
from poolservice_server.tune.search import Outcome, Search
from poolservice_server.tune.settings_file import CannotWrite, check_target, write_settings
from poolservice_server.tune.tuned_server import CannotStart

_NAME = "tune"
_FAILED = 1


class NothingToCompare(Exception):
    """--check would compare the defaults with themselves."""


def _tune(
    context: typer.Context,
    jobs_file: Annotated[
        Path, typer.Argument(metavar="JOBS.toml", help="The jobs to measure, a table [[job]] for each.")
    ],
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTINGS", help="The server's flags, as `poolservice-server --help` lists them."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, max=86_400.0, help="The time that the search may take.")] = 120.0,
    target: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the settings to this file, for --config.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --write.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Choose nothing: measure these settings against the defaults.")
    ] = False,
    as_object: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of tables.")] = False,
) -> None:
    """Measure which settings suit this machine and your jobs, with real servers, and say what to use.

    The search starts from the settings of the flags, the environment and the file of --config, and changes workers,
    threads, decode_threads, backbone_threads, max_batch_size, max_batch_bytes and max_batch_delay. A value replaces
    yours only if it is faster by more than the noise. Nothing else should run on the machine meanwhile; the load
    generator uses its cores, too. Ctrl-C prints what is known.
    """
    arguments = flags or []
    settings = load_settings(context, arguments)
    jobs = [make_job(table, jobs_file.parent) for table in read_jobs(jobs_file)]
    if target is not None and check:
        raise CannotWrite("--check chooses nothing that --write could write; leave one of them out")
    if target is not None:
        check_target(target, force=force)
    defaults = _defaults(settings)
    if check and not defaults:
        raise NothingToCompare(
            "--check compares settings with the defaults, and these settings are the defaults; add other ones, for "
            "example with --config FILE"
        )

    def report(line: str) -> None:
        if not as_object:
            typer.echo(line, err=True)

    search = Search(arguments, settings, jobs, cores=usable_cpus(), seconds=seconds, report=report)
    # An orchestrator stops a process with SIGTERM. The servers, in groups of their own, end with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        if check:
            search.compare(defaults)
        else:
            search.run()
    except KeyboardInterrupt:
        interrupted = True
        report("interrupted; this is what is known:")
    typer.echo(_text(search.outcome, settings, jobs, check=check, as_object=as_object, interrupted=interrupted))
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if target is not None:
        comment = f"Written by poolservice-server tune {jobs_file.name}, for the server's --config"
        write_settings(target, settings, search.outcome.chosen, comment)
        contents = "" if search.outcome.chosen else ", which has no other settings than yours"
        report(f"wrote {target}{contents}; start the server with: poolservice-server --config {target}")


def _text(
    outcome: Outcome, settings: Settings, jobs: Sequence[Job], *, check: bool, as_object: bool, interrupted: bool
) -> str:
    if as_object:
        return json.dumps({**as_json(outcome, settings, jobs), "interrupted": interrupted}, indent=2)
    return check_as_text(outcome, jobs) if check else as_text(outcome, settings, jobs)


def _defaults(settings: Settings) -> dict[str, float]:
    """Return the tuned settings that are not at their defaults, with these."""
    defaults = {name: Settings.model_fields[name].default for name in TUNED}
    return {name: default for name, default in defaults.items() if getattr(settings, name) != default}


app = make_app(
    _NAME,
    _tune,
    epilog="Exit statuses: 0 success; 1 the server does not start, or it refuses a job; 2 a flag or a file is wrong.",
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status. An error is one sentence on stderr."""
    statuses = {
        **dict.fromkeys((SettingsError, WrongJobs, CannotWrite, NothingToCompare), USAGE_ERROR),
        **dict.fromkeys((CannotStart, LoadFailed), _FAILED),
    }
    return run(app, _NAME, arguments, statuses)
