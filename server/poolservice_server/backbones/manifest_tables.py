"""The tables of `backbone.toml`: their keys, and the rules about several keys of one table."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from poolservice_server.backbones.manifest_values import (
    Argument,
    FilePath,
    Flag,
    Line,
    Name,
    Number,
    Sha256,
    Side,
    Text,
    Whole,
    architecture_name,
    byte_or_bytes,
    file_with_ending,
    pair_of_sides,
    rule,
    side_or_pair,
)

# Architectures of timm take these, too. Some download weights, others load pickles, which can run any code.
_ARGUMENTS_ABOUT_WEIGHTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class File(Table):
    """A file and its hash."""

    file: FilePath = Field(description="path of the file in the folder")
    sha256: Sha256 = Field(description="SHA-256 of the file, as sha256sum prints it")


class Onnx(File):
    """An ONNX model, run by onnxruntime."""

    file: Annotated[FilePath, file_with_ending(".onnx")] = Field(description="path of the model in the folder")
    external_data: tuple[File, ...] = Field(
        default=(), max_length=1000, description="files in the folder that hold tensors of the model"
    )
    input: Text | None = Field(default=None, description="name of the graph's input; by default its only one")


class Torch(File):
    """An architecture of an installed library, with weights in a safetensors file, run by torch."""

    file: Annotated[FilePath, file_with_ending(".safetensors")] = Field(
        description="path of the weights in the folder, a safetensors file"
    )
    architecture: Annotated[Text, AfterValidator(architecture_name)] = Field(
        description="poolservice:NAME, timm:NAME, or MODULE:CALLABLE with --allow-code-models"
    )
    arguments: dict[Name, Argument] = Field(default={}, max_length=100, description="arguments of the architecture")
    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="float32, float16 or bfloat16, on a GPU"
    )

    @property
    def can_run_code(self) -> bool:
        """Return True if the architecture is code that neither poolservice nor timm has."""
        return not self.architecture.startswith(("poolservice:", "timm:"))

    @model_validator(mode="after")
    def _weights_come_from_the_file(self) -> Self:
        for name in sorted(_ARGUMENTS_ABOUT_WEIGHTS & self.arguments.keys()):
            raise rule(f"arguments.{name} must be left out: the weights come from the file that torch.file names")
        return self


class Program(File):
    """A program that torch.export wrote, .pt2. It can run any code, so it needs --allow-code-models."""

    file: Annotated[FilePath, file_with_ending(".pt2")] = Field(description="path of the program in the folder")


class Input(Table):
    """The input of the network."""

    height: Side = Field(description="height of a sample in pixels")
    width: Side = Field(description="width of a sample in pixels")
    color_mode: Literal["RGB", "GRAY"] = Field(default="RGB", description="RGB or GRAY")
    channel_order: Literal["RGB", "BGR"] = Field(default="RGB", description="RGB or BGR")

    @property
    def channels(self) -> int:
        """Return the number of channels of a sample."""
        return 3 if self.color_mode == "RGB" else 1

    @model_validator(mode="after")
    def _gray_has_no_order(self) -> Self:
        if self.color_mode == "GRAY" and self.channel_order == "BGR":
            raise rule('channel_order must be left out with color_mode = "GRAY", which has one channel')
        return self


class Preprocessing(Table):
    """The steps that turn the upright image into a sample: resize, crop, (value * scale - mean) / std."""

    resize: Literal["shortest", "squash", "longest", "none"] = Field(
        default="shortest", description="shortest, squash, longest or none"
    )
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(side_or_pair)] = Field(
        default=None,
        description="side in pixels that the shorter or longer side gets, or [height, width]: shortest makes an image "
        "cover it, longest fit into it, squash have it. Of squash, it is the input's by default",
    )
    rounding: Literal["floor", "round", "ceil"] = Field(
        default="floor", description="how the other side is rounded: torchvision and timm floor it"
    )
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = Field(
        default="bilinear", description="filter of the resize"
    )
    antialias: Flag = Field(default=True, description="whether the filter widens when it makes an image smaller")
    crop: Literal["center", "none"] = Field(default="center", description="center or none")
    crop_rounding: Literal["round", "floor"] = Field(
        default="round", description="how half of the margin is rounded: torchvision rounds half to even"
    )
    fill: Annotated[int | tuple[int, ...], BeforeValidator(byte_or_bytes)] = Field(
        default=0,
        description="value of the pixels beyond an image smaller than the crop, one or one per channel",
    )
    scale: Number = Field(default=1 / 255, gt=0, description="factor of the pixels, which are 0 to 255")
    mean: tuple[Number, ...] = Field(default=(0.0,), description="subtracted after scaling, one or one per channel")
    std: tuple[Annotated[Number, Field(gt=0)], ...] = Field(
        default=(1.0,), description="divides at last, one or one per channel"
    )

    @model_validator(mode="after")
    def _size_fits_the_resize(self) -> Self:
        pair = isinstance(self.size, tuple)
        if self.resize in ("shortest", "longest") and self.size is None:
            side = "shorter" if self.resize == "shortest" else "longer"
            raise rule(f'size is missing: with resize = "{self.resize}", the pixels of the {side} side, such as 256')
        if self.resize == "squash" and self.size is not None and not pair:
            raise rule(f'size must be [height, width] with resize = "squash", such as [{self.size}, {self.size}]')
        if self.resize == "none" and self.size is not None:
            raise rule('size must be left out with resize = "none"')
        if self.resize in ("shortest", "longest") and self.crop == "none":
            raise rule(
                f'crop must be center with resize = "{self.resize}", which leaves one side as long as the image makes '
                "it; a network with inputs of a fixed size needs a crop"
            )
        return self

    @model_validator(mode="after")
    def _filter_suits_antialias(self) -> Self:
        if not self.antialias and self.filter not in ("bilinear", "bicubic"):
            raise rule(
                f'antialias must be true with filter = "{self.filter}"; only bilinear and bicubic can do without'
            )
        return self

    @model_validator(mode="after")
    def _mean_is_of_scaled_values(self) -> Self:
        largest = 255 * self.scale
        if any(abs(mean) > largest * 1.001 for mean in self.mean):
            raise rule(
                f"mean must be of scaled pixels, which are 0 to {largest:.4g}; for a mean of pixels of 0 to 255, set "
                "scale = 1"
            )
        return self


class Output(Table):
    """An output of the network, or a vector that is computed from another output."""

    kind: Literal["map", "tokens", "vector"] = Field(description="map, tokens or vector")
    tensor: Line | None = Field(
        default=None,
        description="name in the ONNX graph, of the module in torch, or of the graph node in a program, such as conv2d",
    )
    module: Line | None = Field(
        default=None, description="name of the module in torch, if the ONNX graph has another name; by default tensor"
    )
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="NCHW or NHWC, of a map")
    prefix_tokens: Whole = Field(
        default=0, ge=0, le=1024, description="number of tokens before those of the grid, such as the class token"
    )
    grid: Annotated[tuple[int, int] | None, BeforeValidator(pair_of_sides)] = Field(
        default=None, description="[rows, columns] of a token grid"
    )
    source: Name | None = Field(default=None, description="output that a projected vector is computed from")
    pool: Literal["avg", "max"] | None = Field(
        default=None, description="avg or max: how a source that is a map becomes a vector"
    )
    projection: Name | None = Field(default=None, description="name of the projection of the source")

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        if self.tensor is not None and self.source is not None:
            raise rule("source must be left out of an output with tensor: an output is one or the other")
        if self.kind == "vector" and self.tensor is None and self.source is None:
            raise rule("tensor is missing: name the network's tensor, or set source and projection")
        if self.kind != "vector" and self.tensor is None:
            raise rule(f'tensor is missing: an output of kind = "{self.kind}" is a tensor of the network')
        if self.source is not None and self.projection is None:
            raise rule("projection is missing: an output with source needs the name of a projection")
        needs = {
            "module": ("tensor", self.tensor is not None),
            "pool": ("source", self.source is not None),
            "projection": ("source", self.source is not None),
            "layout": ('kind = "map"', self.kind == "map"),
            "prefix_tokens": ('kind = "tokens"', self.kind == "tokens"),
            "grid": ('kind = "tokens"', self.kind == "tokens"),
        }
        for key, (needed, given) in needs.items():
            if getattr(self, key) != type(self).model_fields[key].default and not given:
                raise rule(f"{key} must be left out of an output without {needed}")
        if self.kind == "tokens" and self.grid is None:
            raise rule("grid is missing: the [rows, columns] of the tokens, such as [14, 14]")
        return self


class Head(File):
    """A linear classification head in a safetensors file: weight (K, C) and optionally bias (K,)."""

    file: Annotated[FilePath, file_with_ending(".safetensors")] = Field(
        description="path of the head in the folder, a safetensors file"
    )
    output: Name = Field(description="name of the feature map whose mean the head takes")
    labels: FilePath | None = Field(default=None, description="text file with the name of a class on each line")


class Projection(File):
    """A projection in a safetensors file.

    linear: weight (D, C) and optionally bias (D,). pca_whitening: mean (C,), components (D, C), variance (D,).
    """

    file: Annotated[FilePath, file_with_ending(".safetensors")] = Field(
        description="path of the projection in the folder, a safetensors file"
    )
    kind: Literal["linear", "pca_whitening"] = Field(description="linear or pca_whitening")
