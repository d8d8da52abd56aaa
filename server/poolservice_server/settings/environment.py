"""The environment variables of the server: their names, their values, and the unknown ones."""

import os
import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from poolservice_server.settings.errors import did_you_mean

_PREFIX = "POOLSERVICE_"

# POOLSERVICE_ADDRESS belongs to clients. A machine that has it for its clients may also run a server, which must not
# listen there.
_OTHER_NAMES = {"address": "POOLSERVICE_LISTEN"}

# Variables that have the prefix and are not the server's.
_NOT_SETTINGS = re.compile(
    _PREFIX + r"("
    # The client's.
    r"ADDRESS|TOKEN|CA|CLIENT_CERTIFICATE|CLIENT_KEY"
    # Of docker-compose.yml and of the tests of the container image.
    r"|IMAGE|TEST_\w+"
    # Set by Kubernetes and by docker-compose.yml for a service that is called poolservice.
    r"|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?"
    r")"
)


def value_of(setting: str) -> str | None:
    """Return the value of a setting's environment variable, or None if it is unset or empty.

    Templates of containers define all their variables, and leave empty those that nobody has set.
    """
    return os.environ.get(variable_of(setting)) or None


def variable_of(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return _OTHER_NAMES.get(setting, _PREFIX + setting.upper())


class EnvironmentSource(PydanticBaseSettingsSource):
    """The settings that the environment has: strings, and lists of strings, which the character of PATH separates."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one setting, or None; its name; and that the value needs no decoding."""
        value = value_of(field_name)
        if value is not None and _is_list(field):
            return [one for one in value.split(os.pathsep) if one], field_name, False
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the settings that the environment has."""
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _is_list(field: FieldInfo) -> bool:
    return any(get_origin(one) is tuple for one in get_args(field.annotation))


def unknown_variables(settings: Iterable[str]) -> list[str]:
    """Return a sentence for each environment variable that has the prefix of a setting but is none.

    The server warns about them and starts, although it refuses an unknown key in a settings file. A settings file is
    written for this server alone, but others put variables into its environment: Kubernetes, for example, adds some for
    each service of the namespace, named after the service. These must not keep a container from starting.

    Args:
        settings: the names of all settings.
    """
    known = {variable_of(name) for name in settings}
    return [
        f"the environment variable {name} is not a setting and has no effect{did_you_mean(name, known, prefix=_PREFIX)}"
        for name in sorted(os.environ)
        if name.startswith(_PREFIX) and name not in known and not _NOT_SETTINGS.fullmatch(name)
    ]
