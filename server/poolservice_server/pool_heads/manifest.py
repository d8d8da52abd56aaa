"""The schema of `head.toml`, the file that describes a pool head. `server/README.md` explains each key."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from poolservice_server.backbones.manifest_file import WrongManifest, explain, read_toml
from poolservice_server.backbones.manifest_tables import File, Table
from poolservice_server.backbones.manifest_values import FilePath, Line, Text, file_with_ending
from poolservice_server.foreign_text import quote
from poolservice_server.pool_heads.kinds import KINDS

#: The name of the file in a head's folder.
FILE_NAME = "head.toml"

SCHEMA = 1


class HeadManifest(File):
    """The contents of `head.toml`."""

    schema_version: Literal[1] = Field(alias="schema", description="1, the version of this format")
    kind: str = Field(description=f"one of {', '.join(KINDS)}")
    description: Line = Field(default="", description="what it is, in one sentence")
    licence: Text = Field(description="licence of the weights, such as Apache-2.0")
    source: Text = Field(description="where the weights come from")
    file: Annotated[FilePath, file_with_ending(".safetensors")] = Field(
        default="head.safetensors", description="path of the weights in the folder, a safetensors file"
    )
    parameters: dict[str, Any] = Field(default={}, description="a table with the parameters of the kind")


def parse_manifest(content: bytes) -> tuple[HeadManifest, Table]:
    """Return the contents of a `head.toml`, and its table [parameters] as that of its kind.

    Raises:
        WrongManifest: the file is not TOML, or breaks a rule of the schema.
    """
    tables = read_toml(content)
    try:
        manifest = HeadManifest.model_validate(tables)
    except ValidationError as error:
        raise WrongManifest(explain(error, HeadManifest)) from None
    kind = KINDS.get(manifest.kind)
    if kind is None:
        raise WrongManifest(f"kind must be one of {', '.join(KINDS)}; got {quote(manifest.kind)}")
    try:
        return manifest, kind.parameters.model_validate(manifest.parameters)
    except ValidationError as error:
        raise WrongManifest(f"[parameters]: {explain(error, kind.parameters)}") from None
