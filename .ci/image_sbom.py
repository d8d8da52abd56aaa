"""Write an SBOM of a container image, in CycloneDX's JSON format: its distributions, Debian packages and Python.

    python image_sbom.py FILE

The Dockerfiles run it with the image's own Python.
"""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from audit import sbom

_DPKG_STATUS = Path("/var/lib/dpkg/status")
_OS_RELEASE = Path("/etc/os-release")


def main() -> int:
    """Write the SBOM; return the exit status."""
    bill = sbom(sorted(metadata.distributions(), key=lambda one: one.metadata["Name"].lower()))
    bill["components"] += [python(), *debian_packages(_DPKG_STATUS.read_text(), release(_OS_RELEASE.read_text()))]
    Path(sys.argv[1]).write_text(json.dumps(bill, indent=2) + "\n")
    return 0


def python() -> dict[str, Any]:
    """Return the interpreter as a component."""
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return {"type": "platform", "bom-ref": purl, "name": "python", "version": version, "purl": purl}


def release(os_release: str) -> str:
    """Return the release of Debian in the text of /etc/os-release, such as "debian-12"."""
    values = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return f"{values['ID']}-{values['VERSION_ID']}".replace('"', "")


def debian_packages(status: str, distro: str) -> list[dict[str, Any]]:
    """Return the installed packages in the text of dpkg's status file as components."""
    components = []
    for paragraph in status.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields["Status"] != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{name}@{quote(version, safe=':~')}?arch={fields['Architecture']}&distro={distro}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return components


if __name__ == "__main__":
    sys.exit(main())
