"""`make release-check` refuses a commit that must not be released, and says why."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci"

CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- A feature.

## [0.1.0] - 2026-11-24

- The first release.
"""

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(root), *IDENTITY, *arguments],
        check=True,
        capture_output=True,
    )


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "a commit")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that passes every check but the build, because it has no sources."""
    version_file = tmp_path / "protos" / "poolservice" / "__init__.py"
    version_file.parent.mkdir(parents=True)
    version_file.write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def check(root: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(CI / "release_check.py"), "--root", str(root)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    return done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## [Unreleased]\n", "## [Unreleased]\n\n- A change.\n", "[Unreleased] is not empty"),
        ("0.2.0", "0.3.0", "has no section for version 0.2.0"),
        (" - 2026-12-01", "", "the heading of version 0.2.0 has no date"),
        ("2026-12-01", "2026-13-01", "the heading of version 0.2.0 has no date"),
        ("### Added\n\n- A feature.\n", "", "the section for version 0.2.0 is empty"),
        ("## [0.2.0]", "## [0.2.1] - 2026-12-02\n\n- Later.\n\n## [0.2.0]", "the first release is 0.2.1"),
    ],
)
def test_a_wrong_changelog_is_refused(repository: Path, old: str, new: str, message: str) -> None:
    (repository / "CHANGELOG.md").write_text(CHANGELOG.replace(old, new))
    commit(repository)
    assert message in check(repository)


def test_a_development_version_is_refused(repository: Path) -> None:
    (repository / "protos/poolservice/__init__.py").write_text('__version__ = "0.2.0.dev0"\n')
    commit(repository)
    assert "0.2.0.dev0 is not a release version" in check(repository)


def test_an_unclean_tree_is_refused(repository: Path) -> None:
    (repository / "forgotten.txt").touch()
    (repository / "CHANGELOG.md").write_text(CHANGELOG + "\n")
    message = "the working tree is not clean; commit or remove:\n M CHANGELOG.md\n?? forgotten.txt"
    assert message in check(repository)


def test_a_released_version_is_refused(repository: Path) -> None:
    git(repository, "tag", "v0.2.0")
    assert "the tag v0.2.0 exists" in check(repository)


def test_sources_that_do_not_build_are_refused(repository: Path) -> None:
    assert "the build failed" in check(repository)


def test_a_wheel_with_missing_or_unexpected_files_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "poolservice-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("poolservice/py.typed", "")
        archive.writestr("tests/conftest.py", "")
        archive.writestr("poolservice-0.2.0.dist-info/METADATA", "Name: poolservice\nVersion: 0.1.0\n\nAn old README")
    done = subprocess.run(
        [sys.executable, str(CI / "check_wheel.py"), str(wheel), str(ROOT / "README.md")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    for message in (
        "has ['poolservice', 'tests'] at its top level",
        "poolservice/v1/pool.proto",
        "LICENSE",
        "has the version 0.1.0 in its metadata",
        "not text/markdown",
        "does not hold the present README.md",
    ):
        assert message in done.stderr
