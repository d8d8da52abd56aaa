"""Reads the file of jobs, in TOML, and says in one sentence what is wrong with it."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from poolservice.dtypes import DTYPE_NAMES
from poolservice_server.backbones.manifest_file import explain
from poolservice_server.backbones.manifest_tables import Table
from poolservice_server.backbones.manifest_values import Number, Text, Whole, pair_of_sides, rule
from poolservice_server.foreign_text import quote
from poolservice_server.tune.spec_text import parse_spec

_LARGEST_PAYLOAD = 2**30


class WrongJobs(Exception):
    """The file of jobs, or a file that it names, cannot be used. The message is one sentence."""


class JobTable(Table):
    """One kind of call that the user's programs make."""

    name: Text = Field(description="a name for the report")
    shape: tuple[Annotated[Whole, Field(ge=1)], ...] | None = Field(
        default=None, max_length=5, description="the shape of a tensor with random values: (C, *) or (N, C, *)"
    )
    dtype: Text = Field(default="float32", description="the dtype of the tensor")
    image: Annotated[tuple[int, int] | None, BeforeValidator(pair_of_sides)] = Field(
        default=None, description="width and height of an image that is generated, in the place of a shape"
    )
    image_file: Text | None = Field(
        default=None, description="an image file, in the place of a shape; relative to the folder of the jobs file"
    )
    format: Literal["jpeg", "png", "webp"] = Field(default="jpeg", description="format of the generated image")
    specs: tuple[Text, ...] = Field(
        default=(), max_length=16, description='the operators, such as ["gap2d", "MaxPool2d(kernel_size=3)"]'
    )
    backbone: Text | None = Field(default=None, description="the backbone that runs the image; it needs --backbone DIR")
    tap: Text | None = Field(default=None, description="the output of the backbone; by default the server's choice")
    concurrency: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default=8, description="number of calls in progress at any time"
    )
    requests_per_message: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default=1, description="number of requests in each message, as the SDK sends if it coalesces calls"
    )
    weight: Annotated[Number, Field(gt=0, le=1000)] = Field(
        default=1.0, description="how much the job counts beside the others"
    )

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        given = [name for name in ("shape", "image", "image_file") if getattr(self, name) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "none of them"
            raise rule(f"shape, image or image_file must be given, and only one of them; {self.name!r} has {names}")
        if self.shape is not None:
            self._check_tensor(self.shape)
        return self

    @model_validator(mode="after")
    def _has_specs(self) -> Self:
        if not self.specs and self.backbone is None:
            raise rule('specs is missing: the operators, such as ["gap2d"]; only a job with a backbone needs none')
        for number, text in enumerate(self.specs):
            try:
                parse_spec(text)
            except ValueError as error:
                raise rule(f"specs[{number}] {quote(text)} {error}") from None
        if self.tap is not None and self.backbone is None:
            raise rule("tap is the output of a backbone, so it needs the key backbone, too")
        return self

    def _check_tensor(self, shape: tuple[int, ...]) -> None:
        if self.dtype not in DTYPE_NAMES:
            raise rule(f"dtype must be one of {', '.join(DTYPE_NAMES)}; got {quote(self.dtype)}")
        if self.backbone is not None:
            raise rule("backbone needs an image, not a shape")
        values = 1
        for size in shape:
            values *= size
        if values > _LARGEST_PAYLOAD:
            raise rule(f"shape must have at most {_LARGEST_PAYLOAD} values; it has {values}")


class JobsFile(Table):
    """The whole file."""

    job: tuple[JobTable, ...] = Field(
        max_length=32, description="a table [[job]] for each kind of call that your programs make"
    )

    @model_validator(mode="after")
    def _has_jobs_with_different_names(self) -> Self:
        # Not a min_length: entries with an error do not count, so it would report a second error for them.
        if not self.job:
            raise rule("job must have at least 1 entry; got []")
        names = [job.name for job in self.job]
        for name in names:
            if names.count(name) > 1:
                raise rule(f"job has two jobs named {quote(name)}; give each another name")
        return self


def read_jobs(path: Path) -> tuple[JobTable, ...]:
    """Return the jobs of a file.

    Raises:
        WrongJobs: the file cannot be read, is not TOML, or breaks a rule.
    """
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise WrongJobs(f"cannot read the jobs file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongJobs(f"the jobs file {path} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise WrongJobs(f"the jobs file {path} is not TOML: {error}") from None
    try:
        return JobsFile.model_validate(tables).job
    except ValidationError as error:
        raise WrongJobs(f"{path}: {explain(error, JobsFile)}") from None
