"""The jobs file of `tune`: what it may have, and the sentence about what is wrong with it."""

import re
from pathlib import Path

import pytest

from poolservice.specs import (
    AdaptiveAvgPool2d,
    GeMPool2d,
    GGeMPool2d,
    GlobalAvgPool2d,
    LPPool2d,
    MaxPool2d,
    PoolHead2d,
    RMAC2d,
    RoIAlign2d,
    Sequential,
    SpatialPyramidPool2d,
)
from poolservice.specs.base import PoolSpec
from poolservice_server.tune.job import make_job
from poolservice_server.tune.jobs_file import WrongJobs, read_jobs
from poolservice_server.tune.spec_text import parse_spec

JOB = '[[job]]\nname = "a"\n'


def problem(tmp_path: Path, text: str) -> str:
    path = tmp_path / "jobs.toml"
    path.write_text(text)
    with pytest.raises(WrongJobs) as caught:
        [make_job(table, tmp_path) for table in read_jobs(path)]
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("max2d:kernel_size=2+gem2d:p=1e+1+rmac", Sequential([MaxPool2d(2), GeMPool2d(10), RMAC2d()])),
        ("MaxPool2d(2) + RMAC2d(levels=2)", Sequential([MaxPool2d(2), RMAC2d(2)])),
        ("spatial_pyramid2d:levels=4,mode=avg", SpatialPyramidPool2d([4], "avg")),
        ("ggem2d:p=3", GGeMPool2d([3])),
        ("pool_head:name=Salad-B", PoolHead2d("Salad-B")),
        ("RoIAlign2d([[0, 0, 1, 1.5]], 2)", RoIAlign2d([[0, 0, 1, 1.5]], 2)),
        ("gap2d", GlobalAvgPool2d()),
        ("global_avg2d", GlobalAvgPool2d()),
        ("global_avg_pool2d", GlobalAvgPool2d()),
        ("GlobalAvgPool2d()", GlobalAvgPool2d()),
        ("ps.GlobalAvgPool2d()", GlobalAvgPool2d()),
        ("max2d:kernel_size=3x2,stride=1,ceil_mode=true", MaxPool2d((3, 2), stride=1, ceil_mode=True)),
        ("MaxPool2d((3, 2), stride=1)", MaxPool2d((3, 2), stride=1)),
        ("lp2d:norm-type=2.5,kernel-size=2", LPPool2d(2.5, 2)),
        ("adaptive_avg2d:output_size=7xnone", AdaptiveAvgPool2d((7, None))),
    ],
)
def test_specs_are_written_as_on_the_command_line_or_in_python(text: str, spec: PoolSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roi_align2d:boxes=b.npy,output_size=2", "has a tensor, b.npy, as a parameter; write it as lists of numbers"),
        ("sequential2d", "must be written as its layers, joined by +: max2d:kernel_size=2+gap2d"),
        ("Sequential2d([1])", "must be written as its layers, joined by +"),
        ("max2d:kernel_size=2+gap3d", "is wrong: layers[1]: must pool 2 dimensions; GlobalAvgPool3d pools 3"),
        ("rank2d:rank=two", "has the value 'two', which is no size, number, true or false"),
        ("maxx2d", "names no operator"),
        ("max2d:kernel=3", "has no parameter kernel; did you mean kernel_size?"),
        ("max2d", "is wrong: missing 1 required positional argument: 'kernel_size'"),
        ("max2d:kernel_size=0", "is wrong: kernel_size: must be from 1 to"),
        ("max2d:3", "has '3' in place of NAME=VALUE"),
        ("max2d:kernel_size=big", "has the value 'big', which is no size, number, true or false"),
        ("MaxPool2d(__import__('os'))", "must have plain values as arguments"),
        ("MaxPool2d(3))", "must have plain values as arguments"),
        ("MaxPool2d(**{})", "must have plain values as arguments"),
        ("(3)", "must be written as max2d:kernel_size=3x2,stride=1 or as"),
    ],
)
def test_a_wrong_spec_is_explained(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "job is missing: a table [[job]] for each kind of call that your programs make"),
        ("job = []", "job must have at least 1 entry; got []"),
        ("job = 3", "job must be a list; got 3"),
        ("[[job]", "the jobs file "),
        ('[[jobs]]\nname = "a"', "job is missing"),
        ('[[job]]\nshape = [1, 2, 2]\nspecs = ["gap2d"]', "job[0].name is missing: a name for the report"),
        (
            JOB + 'specs = ["gap2d"]',
            "job[0].shape, image or image_file must be given, and only one of them; 'a' has none",
        ),
        (JOB + 'shape = [1]\nimage = [4, 4]\nspecs = ["gap1d"]', "job[0].shape, image or image_file must be given"),
        (JOB + "shape = [1, 2, 2]", "job[0].specs is missing: the operators"),
        (JOB + 'shape = [1, 2, 2]\nspecs = ["maxx"]', "job[0].specs[0] maxx names no operator"),
        (JOB + 'shape = [1, 0, 2]\nspecs = ["gap2d"]', "job[0].shape[1] must be at least 1; got 0"),
        (
            JOB + 'shape = [100000, 100000]\nspecs = ["gap1d"]',
            "job[0].shape must have at most 1073741824 values; it has",
        ),
        (JOB + 'shape = [1, 2, 2]\nspecs = "gap2d"', 'job[0].specs must be a list; got "gap2d"'),
        (JOB + 'shape = [1, 2, 2]\ndtype = "f"\nspecs = ["gap2d"]', "job[0].dtype must be one of float32, "),
        (JOB + 'shape = [1, 2, 2]\nbackbone = "b"', "job[0].backbone needs an image, not a shape"),
        (JOB + 'image = [4, 4]\ntap = "t"\nspecs = ["gap2d"]', "job[0].tap is the output of a backbone"),
        (
            JOB + 'image = [4]\nspecs = ["gap2d"]',
            "job[0].image must be a list of two whole numbers from 1 to 8192; got [4]",
        ),
        (JOB + 'image = [4, 4]\nformat = "gif"\nspecs = ["gap2d"]', "job[0].format must be jpeg, png or webp; got"),
        (
            JOB + 'image = [4, 4]\nspecs = ["gap2d"]\nconcurency = 3',
            "job[0].concurency is not a key of [job[0]]; did you",
        ),
        (JOB + 'image = [4, 4]\nspecs = ["gap2d"]\nconcurrency = 0', "job[0].concurrency must be at least 1; got 0"),
        (JOB + 'image = [4, 4]\nspecs = ["gap2d"]\nweight = 0', "job[0].weight must be greater than 0; got 0"),
        (2 * (JOB + 'image = [4, 4]\nspecs = ["gap2d"]\n'), "job has two jobs named a; give each another name"),
        (JOB + 'image_file = "missing.jpg"\nspecs = ["gap2d"]', "cannot read the image "),
    ],
)
def test_a_wrong_jobs_file_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    sentence = problem(tmp_path, text)
    assert sentence.startswith(words)
    assert "\n" not in sentence


def test_one_error_in_the_only_job_is_reported_as_one(tmp_path: Path) -> None:
    sentence = problem(tmp_path, JOB + 'image = [4, 4]\nspecs = ["gap2d"]\nconcurrency = 0')
    assert sentence.endswith("job[0].concurrency must be at least 1; got 0")
