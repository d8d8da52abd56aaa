"""Every relative link in the Markdown files leads to a file, and every fragment to a heading."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
# Outside a git repository, such as in an unpacked sdist.
DOCUMENTS = sorted(TRACKED or ["README.md"])

LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#(?P<fragment>[^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def fragments(document: Path) -> set[str]:
    """Return the fragment of each heading, as code hosting sites derive it from the text."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in LINK.finditer(CODE.sub("", path.read_text())):
        target = (path.parent / link["path"]).resolve() if link["path"] else path
        assert target.exists(), f"{document} links to {link['path']}, which does not exist"
        if link["fragment"]:
            assert link["fragment"] in fragments(target), f"{document}: no heading for {link[0]}"
