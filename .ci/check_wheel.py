"""Check the contents and the metadata of a built wheel.

python .ci/check_wheel.py WHEEL [README]
"""

import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

PACKAGES = {"poolservice", "poolservice_client", "poolservice_server"}
REQUIRED = {f"{package}/py.typed" for package in PACKAGES} | {
    f"poolservice/v1/pool{end}" for end in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
}


def problems(wheel: Path, readme: Path | None = None) -> list[str]:
    """Return a sentence for each thing that is wrong with a wheel.

    Args:
        wheel: the file.
        readme: the file that the wheel's long description must be equal to. Default: not compared.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = BytesParser().parsebytes(archive.read(metadata_name))
    found = []
    top_level = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if top_level != PACKAGES:
        found.append(f"{wheel.name} has {sorted(top_level)} at its top level, not {sorted(PACKAGES)}")
    missing = sorted(REQUIRED - names)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        missing.append("LICENSE")
    if missing:
        found.append(f"{wheel.name} lacks {', '.join(missing)}")
    if wheel.name.split("-")[1] != metadata["Version"]:
        found.append(f"{wheel.name} has the version {metadata['Version']} in its metadata")
    if metadata["Description-Content-Type"] != "text/markdown":
        found.append(f"{wheel.name} declares its README as {metadata['Description-Content-Type']}, not text/markdown")
    description = bytes(metadata.get_payload(decode=True)).decode()
    if readme is not None and description.strip() != readme.read_text().strip():
        found.append(f"{wheel.name} does not hold the present {readme.name} as its description")
    return found


if __name__ == "__main__":
    if found := problems(*map(Path, sys.argv[1:])):
        sys.exit("\n".join(found))
    sys.stdout.write(f"{sys.argv[1]}: contents and metadata are right\n")
