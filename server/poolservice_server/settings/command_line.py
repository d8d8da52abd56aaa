"""The parser of the command line, whose errors are one sentence each."""

import json
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from inspect import getdoc
from typing import Any, NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource

from poolservice_server.settings.errors import SettingsError, did_you_mean


class _Parser(ArgumentParser):
    # Flags that a subcommand has parsed itself, for suggestions.
    further_flags: Sequence[str] = ()

    def add_argument(self, *names: Any, **options: Any) -> Action:
        """Add a flag; a flag that may be repeated shows the type of one of its values in --help."""
        if "metavar" in options:
            options["metavar"] = options["metavar"].removeprefix("tuple[").removesuffix(",...]")
        return super().add_argument(*names, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Namespace:  # type: ignore[override]
        """Parse the arguments; suggest the nearest flag for an unknown one."""
        parsed: Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag, _, _ = unknown[0].partition("=")
            flags = [name for name in self._option_string_actions if name.startswith("--")]
            suggestion = did_you_mean(flag, [*flags, *self.further_flags], prefix="--")
            raise SettingsError(f"unknown argument {flag}{suggestion} ({self.prog} --help lists the flags)")
        for name, values in vars(parsed).items():
            # Of a flag that may be repeated. pydantic-settings would split each value at its commas, brackets and
            # quotes, which paths may have. It takes JSON as it is.
            if isinstance(values, list):
                setattr(parsed, name, "none" if values == ["none"] else json.dumps(values))
        return parsed

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def flags_source(
    settings: type[BaseSettings],
    arguments: Sequence[str],
    program: str | None = None,
    further_flags: Sequence[str] = (),
) -> "CliSettingsSource[Any]":
    """Return the source of the settings on a command line.

    Args:
        settings: the class of the settings.
        arguments: the command line.
        program: the name of the command whose --help an error names; by default that of the settings.
        further_flags: the command's flags that are not settings, for suggestions.

    Raises:
        SettingsError: a flag is unknown or lacks its value.
        SystemExit: the command line has --help.
    """
    parser = _Parser(
        prog=program or settings.model_config.get("cli_prog_name"),
        description=getdoc(settings),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.further_flags = further_flags
    return CliSettingsSource(
        settings,
        cli_parse_args=list(arguments),
        root_parser=parser,
        parse_args_method=_Parser.parse_args,
        add_argument_method=_Parser.add_argument,
    )
