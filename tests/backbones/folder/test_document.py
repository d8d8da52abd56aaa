"""The document for operators describes the schema that the server checks."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from poolservice_server.backbones.manifest import (
    Head,
    Input,
    Manifest,
    Onnx,
    Output,
    Preprocessing,
    Program,
    Projection,
    Torch,
)
from poolservice_server.backbones.manifest_file import parse_manifest

DOCUMENT = (Path(__file__).parents[3] / "server" / "BACKBONES.md").read_text()

TABLES: dict[str, type[BaseModel]] = {
    "The top of the file": Manifest,
    "`[onnx]`": Onnx,
    "`[torch]`": Torch,
    "`[program]`": Program,
    "`[input]`": Input,
    "`[preprocessing]`": Preprocessing,
    "`[outputs.NAME]`": Output,
    "`[head]`": Head,
    "`[projections.NAME]`": Projection,
}


def examples() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def default(value: Any) -> str:
    """Return a default as the document writes it."""
    if value is None:
        return "none"
    if value == 1 / 255:
        return "`1 / 255`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{list(value) if isinstance(value, tuple) else value}`"


@pytest.mark.parametrize("heading", TABLES)
def test_each_key_is_documented_with_its_default(heading: str) -> None:
    _, found, section = DOCUMENT.partition(f"\n### {heading}\n")
    assert found
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| .+ \|$", section.partition("\n### ")[0], re.MULTILINE)
    fields = TABLES[heading].model_fields
    expected = {
        field.alias or name: "" if field.is_required() else default(field.get_default())
        for name, field in fields.items()
    }
    if heading == "The top of the file":
        expected["projections"] = "none"
    assert dict(rows) == expected


def test_the_complete_example_is_complete_and_right() -> None:
    example, tokens = examples()
    manifest = parse_manifest(f"{example}{tokens}".encode())
    assert manifest.outputs["patches"].grid == (14, 14)
    keys = {key for table in tables(tomllib.loads(f"{example}{tokens}")) for key in table}
    assert keys >= {field.alias or name for table in TABLES.values() for name, field in table.model_fields.items()}


def tables(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [table, *(inner for value in table.values() if isinstance(value, dict) for inner in tables(value))]
