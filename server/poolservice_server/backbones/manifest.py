"""The schema of `backbone.toml`, the file that describes a backbone. `server/BACKBONES.md` explains each key."""

from collections.abc import Collection, Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from poolservice_server.backbones.manifest_tables import (
    File,
    Head,
    Input,
    Onnx,
    Output,
    Preprocessing,
    Program,
    Projection,
    Table,
    Torch,
)
from poolservice_server.backbones.manifest_values import Line, Name, Text, rule
from poolservice_server.settings.errors import did_you_mean

__all__ = [
    "FILE_NAME",
    "MODELS",
    "SCHEMA",
    "File",
    "Head",
    "Input",
    "Manifest",
    "Onnx",
    "Output",
    "Preprocessing",
    "Program",
    "Projection",
    "Torch",
]

#: The name of the file in a backbone's folder.
FILE_NAME = "backbone.toml"

SCHEMA = 1

#: The tables of the models that a folder can have. They are the same network, for different engines.
MODELS = ("onnx", "torch", "program")


class Manifest(Table):
    """The contents of `backbone.toml`."""

    schema_version: Literal[1] = Field(alias="schema", description="1, the version of this format")
    name: Name = Field(description="name of the backbone in requests")
    description: Line = Field(default="", description="what it is, in one sentence")
    licence: Text = Field(description="licence of the weights, such as Apache-2.0")
    source: Text = Field(description="where the model comes from")
    default_output: Name = Field(description="name of the output of requests that name none")
    onnx: Onnx | None = None
    torch: Torch | None = None
    program: Program | None = None
    input: Input = Field(description="a table with the height and width of a sample")
    preprocessing: Preprocessing = Field(description="a table that says how an image becomes a sample")
    outputs: dict[Name, Output] = Field(
        min_length=1, max_length=64, description="a table for each output, such as [outputs.features]"
    )
    head: Head | None = None
    projections: dict[Name, Projection] = Field(default={}, max_length=64)

    def model_files(self) -> Iterator[tuple[str, File]]:
        """Yield the key and the file of each file of a model."""
        for key in MODELS:
            if (file := getattr(self, key)) is not None:
                yield key, file
        if self.onnx:
            yield from ((f"onnx.external_data[{index}]", file) for index, file in enumerate(self.onnx.external_data))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.onnx is None and self.torch is None and self.program is None:
            raise rule("a model is missing: add a table [onnx], [torch] or [program]")
        for name, output in self.outputs.items():
            if output.tensor == "" and (self.onnx or self.program):
                raise rule(f'outputs.{name}.tensor must not be empty; in torch alone, "" is what the network returns')
        self._check_files()
        self._check_preprocessing()
        self._check_names()
        return self

    def _check_files(self) -> None:
        keys: dict[str, str] = {FILE_NAME: "this file"}
        files = [(f"{key}.file", file.file) for key, file in self.model_files()]
        if self.head:
            files.append(("head.file", self.head.file))
            files += [("head.labels", self.head.labels)] if self.head.labels else []
        files += [(f"projections.{name}.file", file.file) for name, file in self.projections.items()]
        for key, path in files:
            if path in keys:
                raise rule(f'{key} must be another file than {keys[path]}; both are "{path}"')
            keys[path] = key

    def _check_preprocessing(self) -> None:
        preprocessing, size = self.preprocessing, self.preprocessing.size
        height, width, channels = self.input.height, self.input.width, self.input.channels
        fill = preprocessing.fill if isinstance(preprocessing.fill, tuple) else (preprocessing.fill,)
        for key, values in (("mean", preprocessing.mean), ("std", preprocessing.std), ("fill", fill)):
            if len(values) not in (1, channels):
                numbers = "one number" if channels == 1 else f"one number or {channels}"
                raise rule(
                    f"preprocessing.{key} must have {numbers}, because input.color_mode is {self.input.color_mode}; "
                    f"got {len(values)}"
                )
        if isinstance(size, tuple):
            covers = preprocessing.resize == "shortest" or (
                preprocessing.resize == "squash" and preprocessing.crop == "center"
            )
            if covers and (size[0] < height or size[1] < width):
                raise rule(
                    f"preprocessing.size must be at least [{height}, {width}], the input's, or images are padded; got "
                    f"{list(size)}"
                )
            if preprocessing.crop == "none" and size != (height, width):
                raise rule(
                    f'preprocessing.size must be [{height}, {width}] with crop = "none", as the input; got {list(size)}'
                )
        elif preprocessing.resize == "shortest" and size is not None and size < min(height, width):
            raise rule(
                f"preprocessing.size must be at least {min(height, width)}, the shorter side of the input, or images "
                f"are padded; got {size}"
            )

    def _check_names(self) -> None:
        if self.default_output not in self.outputs:
            raise _unknown("default_output", self.default_output, self.outputs)
        for name, output in self.outputs.items():
            if output.source is not None:
                self._check_source(f"outputs.{name}", output, output.source)
        used = {output.projection for output in self.outputs.values()}
        for name in self.projections:
            if name not in used:
                raise rule(f'projections.{name} is used by no output: add projection = "{name}" to one, or remove it')
        if self.head is None:
            return
        if self.head.output not in self.outputs:
            raise _unknown("head.output", self.head.output, self.outputs)
        if self.outputs[self.head.output].kind == "vector":
            raise rule(f'head.output must be an output of kind map or tokens; got "{self.head.output}", a vector')

    def _check_source(self, key: str, output: Output, name: str) -> None:
        if name not in self.outputs:
            raise _unknown(f"{key}.source", name, self.outputs)
        if output.projection not in self.projections:
            raise _unknown(f"{key}.projection", output.projection or "", self.projections)
        source = self.outputs[name]
        if source.tensor is None:
            raise rule(f'{key}.source must be an output with tensor; got "{name}", which has a source itself')
        if source.kind == "vector" and output.pool is not None:
            raise rule(f'{key}.pool must be left out: the source "{name}" is a vector already')
        if source.kind != "vector" and output.pool is None:
            raise rule(f'{key}.pool must be avg or max, because the source "{name}" is a feature map')


def _unknown(key: str, name: str, known: Collection[str]) -> Exception:
    if not known:
        return rule(f'{key} must be the name of a table [projections.NAME], of which there is none; got "{name}"')
    return rule(f'{key} must be {_alternatives(known)}; got "{name}"{did_you_mean(name, known)}')


def _alternatives(names: Collection[str]) -> str:
    """Return the names as "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
