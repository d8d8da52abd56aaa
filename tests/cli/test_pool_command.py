"""`poolservice pool`: what goes in, what comes out, and what is said of it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def planes(photograph: Path) -> torch.Tensor:
    """The photograph as torchvision's ToTensor has it."""
    with Image.open(photograph) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _succeeded(done: "CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_photograph_becomes_a_png(command: Command, photograph: Path, planes: torch.Tensor, tmp_path: Path) -> None:
    said = _succeeded(command("pool", photograph, "--op", "max2d", "--kernel-size", 2, "-o", "out.png"))
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    expected = (F.max_pool2d(planes, 2) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, expected)
    assert said.startswith("MaxPool2d(kernel_size=2)  (3, 300, 256) uint8  ")
    assert said.endswith("-> out.png\n")


def test_an_array_is_written_as_npy(command: Command, photograph: Path, planes: torch.Tensor, tmp_path: Path) -> None:
    _succeeded(command("pool", photograph, "--op", "max2d:kernel_size=3x2,stride=2,padding=1x0", "-o", "out.NPY"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.NPY"), F.max_pool2d(planes, (3, 2), 2, (1, 0)).numpy())


def test_several_operators_share_flags_and_keep_their_own_parameters(
    command: Command, photograph: Path, planes: torch.Tensor, tmp_path: Path
) -> None:
    arguments = ["--op", "max2d", "--op", "MaxPool2d:stride=3", "--op", "avg2d", "--op", "gap2d", "--kernel-size", 4]
    said = _succeeded(command("pool", photograph, *arguments, "-o", "all.npz"))
    assert [line.split("  ")[0] for line in said.splitlines()[:4]] == [
        "MaxPool2d(kernel_size=4)",
        "MaxPool2d(kernel_size=4, stride=3)",
        "AvgPool2d(kernel_size=4)",
        "GlobalAvgPool2d()",
    ]
    with np.load(tmp_path / "all.npz") as arrays:
        assert sorted(arrays) == ["avg2d", "global_avg2d", "max2d", "max2d_2"]
        np.testing.assert_array_equal(arrays["max2d"], F.max_pool2d(planes, 4).numpy())
        np.testing.assert_array_equal(arrays["max2d_2"], F.max_pool2d(planes, 4, 3).numpy())
        np.testing.assert_allclose(arrays["avg2d"], F.avg_pool2d(planes, 4).numpy(), rtol=1e-6)
        np.testing.assert_allclose(arrays["global_avg2d"].ravel(), planes.mean((1, 2)).numpy(), rtol=1e-6)


def test_several_pictures_are_numbered_and_named(command: Command, photograph: Path, tmp_path: Path) -> None:
    said = _succeeded(
        command("pool", photograph, "--op", "min2d", "--op", "adaptive_max2d:output_size=10xnone", "--kernel-size", 8,
                "-o", "out.png", "--color-mode", "gray")
    )  # fmt: skip
    for name, size in (("out-1-min2d.png", (64, 75)), ("out-2-adaptive_max2d.png", (512, 10))):
        with Image.open(tmp_path / name) as picture:
            assert (picture.mode, picture.size) == ("L", size)
        assert f"-> {name}\n" in said


def test_few_values_are_printed_themselves(command: Command, photograph: Path, planes: torch.Tensor) -> None:
    said = _succeeded(command("pool", photograph, "--op", "gap2d"))
    result, execution = said.splitlines()
    layer, values = result.split("  (3, 1, 1) float32  ")
    assert layer == "GlobalAvgPool2d()"
    np.testing.assert_allclose([float(value) for value in values.split()], planes.mean((1, 2)).numpy(), rtol=1e-5)
    assert execution.startswith("on cpu in a batch of 1: decoded in ")


def test_json_says_it_to_a_program(command: Command, photograph: Path, planes: torch.Tensor) -> None:
    said = json.loads(
        _succeeded(command("pool", photograph, "--op", "avg2d:kernel_size=2", "--op", "gmp2d", "-o", "o.npz", "--json"))
    )
    assert said["input"] == str(photograph)
    assert said["figure"] is None
    assert set(said["execution"]) == {
        "device", "batch_size", "decode_microseconds", "queue_microseconds", "compute_microseconds",
    }  # fmt: skip
    assert said["execution"]["batch_size"] == 1
    average, maximum = said["results"]
    assert (average["operator"], average["spec"]) == ("avg2d", "AvgPool2d(kernel_size=2)")
    assert (average["shape"], average["dtype"], average["path"]) == ([3, 300, 256], "float32", "o.npz")
    assert "values" not in average
    assert average["mean"] == pytest.approx(planes.mean().item(), rel=1e-5)
    assert (maximum["shape"], maximum["values"]) == ([3, 1, 1], planes.amax((1, 2)).tolist())


def test_json_names_what_json_has_no_number_for(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[np.nan, 1, np.inf, -np.inf]]))
    said = json.loads(_succeeded(command("pool", "x.npy", "--op", "max1d:kernel_size=1", "--json")))
    assert said["results"][0]["values"] == ["NaN", 1.0, "Infinity", "-Infinity"]
    assert said["results"][0]["dtype"] == "float64"


@pytest.mark.parametrize(("dims", "shape"), [(1, (2, 9)), (2, (2, 5, 4, 6)), (3, (2, 4, 4, 6))])
def test_saved_arrays_of_every_dimension_and_their_indices(
    command: Command, tmp_path: Path, dims: int, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    _succeeded(command("pool", "x.npy", "--op", f"max{dims}d:kernel_size=2", "--return-indices", "-o", "y.npz"))
    expected, indices = getattr(F, f"max_pool{dims}d")(torch.from_numpy(x), 2, return_indices=True)
    with np.load(tmp_path / "y.npz") as arrays:
        np.testing.assert_array_equal(arrays[f"max{dims}d"], expected.numpy())
        np.testing.assert_array_equal(arrays[f"max{dims}d_indices"], indices.numpy())


def test_standard_input_takes_pictures_and_arrays(command: Command, photograph: Path) -> None:
    picture = _succeeded(command("pool", "-", "--op", "gap2d", stdin=photograph.read_bytes()))
    assert picture.startswith("GlobalAvgPool2d()  (3, 1, 1) float32  ")
    saved = io.BytesIO()
    np.save(saved, np.arange(6, dtype=np.int16).reshape(1, 6))
    array = _succeeded(command("pool", "-", "--op", "lp1d:norm_type=1,kernel_size=3", stdin=saved.getvalue()))
    assert array.startswith("LPPool1d(norm_type=1.0, kernel_size=3)  (1, 2) float32  3 12\n")


def test_features_are_flat_normalised_and_narrow_where_asked(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[3.0]], [[4.0]]], dtype=np.float32))
    said = _succeeded(command("pool", "x.npy", "--op", "gap2d", "--features", "--normalize", "--float16"))
    assert said.startswith("GlobalAvgPool2d()  (2,) float16  0.600098 0.799805\n")


def test_numbers_and_switches_reach_the_layers(command: Command, tmp_path: Path) -> None:
    x = np.random.default_rng(1).random((1, 7, 7))
    np.save(tmp_path / "x.npy", x)
    _succeeded(
        command("pool", "x.npy", "--op", "avg2d", "--op", "mixed2d", "--op", "lp2d", "--op", "max2d:dilation=2",
                "--kernel-size", 2, "--padding", 1, "--no-count-include-pad", "--ceil-mode", "--alpha", 0.25,
                "--norm-type", 3, "-o", "y.npz")
    )  # fmt: skip
    t = torch.from_numpy(x)
    mixed = 0.25 * F.max_pool2d(t, 2, padding=1) + 0.75 * F.avg_pool2d(t, 2, padding=1)
    with np.load(tmp_path / "y.npz") as y:
        np.testing.assert_allclose(y["avg2d"], F.avg_pool2d(t, 2, None, 1, True, False).numpy(), rtol=1e-12)
        np.testing.assert_allclose(y["mixed2d"], mixed.numpy(), rtol=1e-12)
        np.testing.assert_allclose(y["lp2d"], F.lp_pool2d(t, 3, 2, ceil_mode=True).numpy(), rtol=1e-12)
        np.testing.assert_array_equal(y["max2d"], F.max_pool2d(t, 2, None, 1, 2, True).numpy())
