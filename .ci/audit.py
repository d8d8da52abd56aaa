# ruff: noqa: T201 - this is a command
"""Check all installed distributions: known vulnerabilities, licences; write an SBOM.

    make audit                       make audit FLAGS=--offline

pip-audit compares the versions with the advisories of the Python Packaging Authority. Where it cannot be installed, or
reaches no advisories, and with --offline, this says so and goes on; with --require-advisories it then fails. Each
licence must be in the allowlist below. The SBOM, in CycloneDX's JSON format, is build/sbom.cdx.json.
"""

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Licences under which a program under Apache-2.0 may use, change and distribute a dependency: permissive ones, and
#: MPL-2.0, which covers only its own files.
ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
    }
)

# What older metadata says instead of an SPDX identifier: parts of the classifier or of the license field.
_OLDER_NAMES = (
    ("mozilla public license 2.0", "MPL-2.0"),
    ("mpl-2.0", "MPL-2.0"),
    ("apache", "Apache-2.0"),
    ("2-clause bsd", "BSD-2-Clause"),
    ("bsd 2-clause", "BSD-2-Clause"),
    ("bsd", "BSD-3-Clause"),
    ("isc", "ISC"),
    ("python software foundation", "PSF-2.0"),
    ("mit", "MIT"),
)


def main() -> int:
    """Run all checks; return 1 if a licence is not allowed or a vulnerability is known."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__.partition("\n")[0])
    advisories = parser.add_mutually_exclusive_group()
    advisories.add_argument("--offline", action="store_true", help="do not look for known vulnerabilities")
    advisories.add_argument("--require-advisories", action="store_true", help="fail if no advisories can be reached")
    options = parser.parse_args()
    distributions = sorted(metadata.distributions(), key=lambda one: one.metadata["Name"].lower())
    licences = {one.metadata["Name"]: licence_of(one) for one in distributions}
    refused = {name: licence for name, licence in licences.items() if not is_allowed(licence)}
    for name, licence in refused.items():
        print(f"{name}: the licence {licence or 'is unknown, which'} is not in the allowlist of .ci/audit.py")
    print(f"licences: {len(licences)} distributions, {len(refused)} not allowed")
    path = ROOT / "build" / "sbom.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(sbom(distributions), indent=2) + "\n")
    print(f"SBOM: {path.relative_to(ROOT)}, {len(distributions)} components")
    vulnerabilities = "of --offline" if options.offline else known_vulnerabilities()
    if isinstance(vulnerabilities, str):
        print(f"known vulnerabilities: not checked, because {vulnerabilities}")
        return int(bool(refused) or options.require_advisories)
    for one in vulnerabilities:
        print(one)
    print(f"known vulnerabilities: {len(vulnerabilities)}")
    return int(bool(refused or vulnerabilities))


def licence_of(distribution: metadata.Distribution) -> str:
    """Return the licence as an SPDX expression, or "" if the metadata names none that is known."""
    fields = distribution.metadata
    if "License-Expression" in fields:
        return fields["License-Expression"]
    classifiers = [one for one in fields.get_all("Classifier") or () if one.startswith("License ::")]
    # A license field may hold the whole text, of which the first words name the licence. It says more than the
    # classifiers, of which "BSD License" names no version, and several may stand for a choice.
    licence = fields["License"] or ""
    if is_allowed(licence):
        return licence
    for text in (licence[:100], *classifiers):
        for words, identifier in _OLDER_NAMES:
            if words in text.lower():
                return identifier
    return ""


def normalized(name: str) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_allowed(expression: str) -> bool:
    """Return True if a combination of allowed licences satisfies an SPDX expression without nested alternatives."""
    alternatives = re.split(r"\s+OR\s+", expression.replace("(", "").replace(")", ""))
    return any(all(part in ALLOWED for part in re.split(r"\s+AND\s+", alternative)) for alternative in alternatives)


def sbom(distributions: list[metadata.Distribution]) -> dict[str, Any]:
    """Return the installed distributions as a bill of materials in CycloneDX's JSON format."""
    components = []
    for one in distributions:
        name, licence = one.metadata["Name"], licence_of(one)
        purl = f"pkg:pypi/{normalized(name)}@{one.version}"
        component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": one.version}
        component["purl"] = purl
        if licence:
            component["licenses"] = [{"expression": licence}]
        components.append(component)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "poolservice", "bom-ref": "poolservice"}},
        "components": components,
    }


def known_vulnerabilities() -> list[str] | str:
    """Return the known vulnerabilities of the installed versions, one line each; or why they cannot be looked up."""
    with tempfile.TemporaryDirectory() as folder:
        # An environment of its own, so that its dependencies are not audited and do not change what is installed.
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "pip-audit"]
        installed = subprocess.run(install, capture_output=True, check=False, text=True)  # noqa: S603 - a fixed command
        if installed.returncode:
            return "pip-audit cannot be installed here: " + _last_line(installed.stderr)
        command = [python, "-m", "pip_audit", "--path", sysconfig.get_path("purelib"), "--skip-editable"]
        command += ["--format", "json"]
        done = subprocess.run(command, capture_output=True, check=False, text=True)  # noqa: S603 - as above
        try:
            report = json.loads(done.stdout)
        except ValueError:
            return "pip-audit cannot reach the advisories from here: " + _last_line(done.stderr)
    return vulnerabilities_in(report)


def vulnerabilities_in(report: dict[str, Any]) -> list[str] | str:
    """Return the vulnerabilities in a report of pip-audit, one line each; or why none can be in it.

    pip-audit reports success even if it found no advisories of any distribution.
    """
    skipped = {one["name"]: one["skip_reason"] for one in report["dependencies"] if "skip_reason" in one}
    checked = len(report["dependencies"]) - len(skipped)
    if not checked:
        return f"pip-audit checked none of {len(skipped)} distributions: {next(iter(skipped.values()), 'no reason')}"
    if skipped:
        print(f"known vulnerabilities: {len(skipped)} distributions not checked: {', '.join(sorted(skipped))}")
    return [
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for one in report["dependencies"]
        for found in one.get("vulns", ())
    ]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


if __name__ == "__main__":
    sys.exit(main())
