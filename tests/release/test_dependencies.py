"""The table of dependencies agrees with pyproject.toml, and the audit with the installed licences."""

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;! ]", requirement, maxsplit=1)[0]


def test_the_table_lists_every_dependency_with_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [(_name(one), "") for one in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        declared += [(_name(one), extra) for one in requirements]
    rows = re.findall(
        r"^\| ([\w-]+) \| (\w*) ?\| (.+) \| (.+) \|$", (ROOT / "server/DEPENDENCIES.md").read_text(), re.M
    )
    listed = [(name, extra) for name, extra, _, _ in rows if name != "package" and name != "---"]
    assert sorted(listed) == sorted(declared)
    assert all(len(reason) > 5 for _, _, reason, _ in rows)


def test_every_installed_licence_is_allowed(audit: ModuleType) -> None:
    for distribution in metadata.distributions():
        licence = audit.licence_of(distribution)
        assert audit.is_allowed(licence), (distribution.metadata["Name"], licence)


@pytest.mark.parametrize("expression", ["GPL-3.0-only", "", "MIT AND AGPL-3.0-only", "LGPL-2.1 OR GPL-2.0"])
def test_other_licences_are_refused(audit: ModuleType, expression: str) -> None:
    assert not audit.is_allowed(expression)


def test_one_allowed_alternative_is_enough(audit: ModuleType) -> None:
    assert audit.is_allowed("GPL-3.0-only OR MIT")


def test_the_sbom_lists_every_distribution(audit: ModuleType) -> None:
    distributions = list(metadata.distributions())
    bill = audit.sbom(distributions)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {one["name"] for one in bill["components"]} == {one.metadata["Name"] for one in distributions}
    assert all(one["version"] and one["licenses"] for one in bill["components"])
