"""`make release-check`: check that this commit can be released, and change nothing.

It checks the version, the changelog, the working tree and the tag. If these are right, it builds the sdist and the
wheel in a temporary folder and checks the wheel's contents and metadata. Every problem is printed as one sentence.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import check_wheel

VERSION_FILE = "protos/poolservice/__init__.py"

_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_RELEASABLE = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_SECTION = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?[ ]*$", re.MULTILINE)


def source_problems(root: Path) -> list[str]:
    """Return a sentence for each thing in the repository that prevents a release."""
    found = _VERSION.search((root / VERSION_FILE).read_text())
    if found is None:
        return [f'{VERSION_FILE} has no line __version__ = "..."']
    version = found[1]
    problems = []
    if not _RELEASABLE.fullmatch(version):
        problems.append(f"{VERSION_FILE}: {version} is not a release version, such as 1.2.3 or 1.2.3rc1")
    problems += _changelog_problems((root / "CHANGELOG.md").read_text(), version)
    if changed := _git(root, "status", "--porcelain"):
        problems.append(f"the working tree is not clean; commit or remove:\n{changed}")
    if _git(root, "tag", "--list", f"v{version}"):
        problems.append(f"the tag v{version} exists; set the next version in {VERSION_FILE}")
    return problems


def _changelog_problems(text: str, version: str) -> list[str]:
    sections = list(_SECTION.finditer(text))
    ends = [section.start() for section in sections[1:]] + [len(text)]
    contents = {section["name"]: text[section.end() : end].strip() for section, end in zip(sections, ends, strict=True)}
    dates = {section["name"]: section["date"] for section in sections}
    problems = []
    if contents.get("Unreleased"):
        problems.append(
            "CHANGELOG.md: [Unreleased] is not empty; move its entries under a heading for this release, such as "
            f"## [1.2.3] - {date.today().isoformat()}"
        )
    releases = [name for name in contents if name != "Unreleased"]
    if version not in contents:
        problems.append(f"CHANGELOG.md has no section for version {version}")
    elif not contents[version]:
        problems.append(f"CHANGELOG.md: the section for version {version} is empty")
    elif releases[0] != version:
        problems.append(f"CHANGELOG.md: the first release is {releases[0]}, but the version is {version}")
    if version in contents and not _is_date(dates[version]):
        problems.append(f"CHANGELOG.md: the heading of version {version} has no date (## [{version}] - YYYY-MM-DD)")
    return problems


def _is_date(text: str | None) -> bool:
    try:
        return text is not None and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def build_problems(root: Path) -> list[str]:
    """Build the sdist, and the wheel from it; return a sentence for each thing that is wrong with the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--outdir", folder, str(root)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        if built.returncode:
            return [f"the build failed:\n{built.stdout}{built.stderr}"]
        (wheel,) = Path(folder).glob("*.whl")
        return check_wheel.problems(wheel, root / "README.md")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip("\n")  # noqa: S603 - as above


def main() -> int:
    """Print what prevents a release. Return the exit status: 0 if nothing does."""
    parser = argparse.ArgumentParser(description="Check that this commit can be released.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository")
    root = parser.parse_args().root
    problems = source_problems(root) or build_problems(root)
    for problem in problems:
        sys.stderr.write(f"release-check: {problem}\n")
    if not problems:
        sys.stdout.write("release-check: ready to tag and publish\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
