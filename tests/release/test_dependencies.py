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


def _rows() -> list[tuple[str, str, str, str]]:
    """Return package, extra, reason and licence of each dependency in the table."""
    text = (ROOT / "server/DEPENDENCIES.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| (\w*) ?\| (.+) \| (.+) \|$", text, re.M)
    return [row for row in rows if row[0] not in ("package", "---")]


def test_the_table_lists_every_dependency_with_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [(_name(one), "") for one in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        declared += [(_name(one), extra) for one in requirements]
    assert sorted((name, extra) for name, extra, _, _ in _rows()) == sorted(declared)
    assert all(len(reason) > 5 for _, _, reason, _ in _rows())


def test_the_table_names_the_licence_of_each_installed_dependency(audit: ModuleType) -> None:
    installed = {audit.normalized(one.metadata["Name"]): one for one in metadata.distributions()}
    listed = {name: licence for name, _, _, licence in _rows() if name in installed}
    assert listed == {name: audit.licence_of(installed[name]) for name in listed}


def test_an_audit_that_checked_no_distribution_is_no_success(audit: ModuleType) -> None:
    skipped = {"name": "numpy", "skip_reason": "numpy (2.4.6) is unknown here"}
    assert audit.vulnerabilities_in({"dependencies": []}) == "pip-audit checked none of 0 distributions: no reason"
    assert "checked none of 1 distributions: numpy (2.4.6) is unknown here" in audit.vulnerabilities_in(
        {"dependencies": [skipped]}
    )


def test_known_vulnerabilities_are_reported(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = {"name": "numpy", "skip_reason": "unknown"}
    found = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    assert audit.vulnerabilities_in({"dependencies": [skipped, found]}) == ["pillow 1.0: PYSEC-1, fixed in 1.1"]
    assert "1 distributions not checked: numpy" in capsys.readouterr().out


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
