"""`poolservice pool`: its inputs, its output files and what it prints."""

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

from poolservice.specs import LAYERS
from poolservice_client._cli.operator_names import layer_of

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def tensor(photograph: Path) -> torch.Tensor:
    """The photograph as torchvision's ToTensor returns it."""
    with Image.open(photograph) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _stdout(done: "CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_an_image_is_written_as_png(command: Command, photograph: Path, tensor: torch.Tensor, tmp_path: Path) -> None:
    stdout = _stdout(command("pool", photograph, "--op", "max2d", "--kernel-size", 2, "-o", "out.png"))
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    expected = (F.max_pool2d(tensor, 2) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, expected)
    assert stdout.startswith("MaxPool2d(kernel_size=2)  (3, 300, 256) uint8  ")
    assert stdout.endswith("-> out.png\n")


def test_an_array_is_written_as_npy(command: Command, photograph: Path, tensor: torch.Tensor, tmp_path: Path) -> None:
    _stdout(command("pool", photograph, "--op", "max2d:kernel_size=3x2,stride=2,padding=1x0", "-o", "out.NPY"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.NPY"), F.max_pool2d(tensor, (3, 2), 2, (1, 0)).numpy())


def test_flags_apply_to_all_operators_but_their_own_parameters_win(
    command: Command, photograph: Path, tensor: torch.Tensor, tmp_path: Path
) -> None:
    arguments = ["--op", "max2d", "--op", "MaxPool2d:stride=3", "--op", "avg2d", "--op", "gap2d", "--kernel-size", 4]
    stdout = _stdout(command("pool", photograph, *arguments, "-o", "all.npz"))
    assert [line.split("  ")[0] for line in stdout.splitlines()[:4]] == [
        "MaxPool2d(kernel_size=4)",
        "MaxPool2d(kernel_size=4, stride=3)",
        "AvgPool2d(kernel_size=4)",
        "GlobalAvgPool2d()",
    ]
    with np.load(tmp_path / "all.npz") as arrays:
        assert sorted(arrays) == ["avg2d", "global_avg2d", "max2d", "max2d_2"]
        np.testing.assert_array_equal(arrays["max2d"], F.max_pool2d(tensor, 4).numpy())
        np.testing.assert_array_equal(arrays["max2d_2"], F.max_pool2d(tensor, 4, 3).numpy())
        np.testing.assert_allclose(arrays["avg2d"], F.avg_pool2d(tensor, 4).numpy(), rtol=1e-6)
        np.testing.assert_allclose(arrays["global_avg2d"].ravel(), tensor.mean((1, 2)).numpy(), rtol=1e-6)


def test_several_png_files_are_numbered_and_named(command: Command, photograph: Path, tmp_path: Path) -> None:
    stdout = _stdout(
        command("pool", photograph, "--op", "min2d", "--op", "adaptive_max2d:output_size=10xnone", "--kernel-size", 8,
                "-o", "out.png", "--color-mode", "gray")
    )  # fmt: skip
    for name, size in (("out-1-min2d.png", (64, 75)), ("out-2-adaptive_max2d.png", (512, 10))):
        with Image.open(tmp_path / name) as image:
            assert (image.mode, image.size) == ("L", size)
        assert f"-> {name}\n" in stdout


def test_few_values_are_printed(command: Command, photograph: Path, tensor: torch.Tensor) -> None:
    stdout = _stdout(command("pool", photograph, "--op", "gap2d"))
    result, execution = stdout.splitlines()
    layer, values = result.split("  (3, 1, 1) float32  ")
    assert layer == "GlobalAvgPool2d()"
    np.testing.assert_allclose([float(value) for value in values.split()], tensor.mean((1, 2)).numpy(), rtol=1e-5)
    assert execution.startswith("on cpu in a batch of 1: decoded in ")


def test_json_has_the_results_and_the_execution(command: Command, photograph: Path, tensor: torch.Tensor) -> None:
    report = json.loads(
        _stdout(command("pool", photograph, "--op", "avg2d:kernel_size=2", "--op", "gmp2d", "-o", "o.npz", "--json"))
    )
    assert report["input"] == str(photograph)
    assert report["figure"] is None
    assert set(report["execution"]) == {
        "device", "batch_size", "decode_microseconds", "queue_microseconds", "compute_microseconds",
        "preprocess_microseconds", "backbone_microseconds", "backbone_fingerprint",
    }  # fmt: skip
    assert report["execution"]["batch_size"] == 1
    average, maximum = report["results"]
    assert (average["operator"], average["spec"]) == ("avg2d", "AvgPool2d(kernel_size=2)")
    assert (average["shape"], average["dtype"], average["path"]) == ([3, 300, 256], "float32", "o.npz")
    assert "values" not in average
    assert average["mean"] == pytest.approx(tensor.mean().item(), rel=1e-5)
    assert (maximum["shape"], maximum["values"]) == ([3, 1, 1], tensor.amax((1, 2)).tolist())


def test_json_writes_nan_and_infinities_as_text(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[np.nan, 1, np.inf, -np.inf]]))
    report = json.loads(_stdout(command("pool", "x.npy", "--op", "max1d:kernel_size=1", "--json")))
    assert report["results"][0]["values"] == ["NaN", 1.0, "Infinity", "-Infinity"]
    assert report["results"][0]["dtype"] == "float64"


@pytest.mark.parametrize(("dims", "shape"), [(1, (2, 9)), (2, (2, 5, 4, 6)), (3, (2, 4, 4, 6))])
def test_arrays_of_every_dimension_and_their_indices(
    command: Command, tmp_path: Path, dims: int, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    _stdout(command("pool", "x.npy", "--op", f"max{dims}d:kernel_size=2", "--return-indices", "-o", "y.npz"))
    expected, indices = getattr(F, f"max_pool{dims}d")(torch.from_numpy(x), 2, return_indices=True)
    with np.load(tmp_path / "y.npz") as arrays:
        np.testing.assert_array_equal(arrays[f"max{dims}d"], expected.numpy())
        np.testing.assert_array_equal(arrays[f"max{dims}d_indices"], indices.numpy())


def test_indices_are_summarized_as_values_are(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(16, dtype=np.float32).reshape(1, 4, 4))
    arguments = ["pool", "x.npy", "--op", "max2d", "--kernel-size", 2, "--return-indices"]
    values, indices, _ = _stdout(command(*arguments)).splitlines()
    assert values.endswith("  (1, 2, 2) float32  5 7 13 15")
    assert indices.split(maxsplit=1) == ["indices", "(1, 2, 2) int64    5 7 13 15"]
    np.save(tmp_path / "x.npy", np.arange(100, dtype=np.float32).reshape(1, 10, 10))
    assert "  min 11, mean 55, max 99\n" in _stdout(command(*arguments)).split("indices ")[-1]
    (result,) = json.loads(_stdout(command(*arguments, "--json")))["results"]
    assert [result[f"indices_{name}"] for name in ("min", "mean", "max")] == [11, 55, 99]


def test_a_1d_operator_says_that_it_pools_the_rows_of_an_image(command: Command, photograph: Path) -> None:
    note = "; each row of an image is pooled by itself, as a 1-D signal"
    result, _ = _stdout(command("pool", photograph, "--op", "max1d", "--kernel-size", 2)).splitlines()
    assert "  (3, 600, 256) float32  " in result
    assert result.endswith(note)
    assert note not in _stdout(command("pool", photograph, "--op", "max2d", "--kernel-size", 2))
    assert note in _stdout(command("map", photograph, "--op", "gap1d", "-o", "f.npz"))


def test_standard_input_takes_images_and_arrays(command: Command, photograph: Path) -> None:
    image = _stdout(command("pool", "-", "--op", "gap2d", stdin=photograph.read_bytes()))
    assert image.startswith("GlobalAvgPool2d()  (3, 1, 1) float32  ")
    saved = io.BytesIO()
    np.save(saved, np.arange(6, dtype=np.int16).reshape(1, 6))
    array = _stdout(command("pool", "-", "--op", "lp1d:norm_type=1,kernel_size=3", stdin=saved.getvalue()))
    assert array.startswith("LPPool1d(norm_type=1.0, kernel_size=3)  (1, 2) float32  3 12\n")


def test_features_can_be_normalized_and_converted_to_float16(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[3.0]], [[4.0]]], dtype=np.float32))
    stdout = _stdout(command("pool", "x.npy", "--op", "gap2d", "--features", "--normalize", "--float16"))
    assert stdout.startswith("GlobalAvgPool2d()  (2,) float16  0.600098 0.799805\n")


def test_every_parameter_flag_reaches_the_layers(command: Command, tmp_path: Path) -> None:
    x = np.random.default_rng(1).random((1, 7, 7))
    np.save(tmp_path / "x.npy", x)
    _stdout(
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


@pytest.mark.parametrize("name", ["max_pool2d", "MaxPool2d", "MAX2D", "max-pool2d", "maxpool2d"])
def test_every_form_of_an_operators_name_is_accepted(command: Command, tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", np.arange(4, dtype=np.float32).reshape(1, 2, 2))
    assert _stdout(command("pool", "x.npy", "--op", f"{name}:kernel_size=2")).startswith("MaxPool2d(kernel_size=2)  ")


def test_the_operators_that_info_lists_are_accepted_with_their_dimensions(command: Command) -> None:
    operators = json.loads(_stdout(command("info", "--json")))["operators"]
    named = {
        (operator["name"], dims): f"{operator['name']}{dims}d"
        for operator in operators
        for dims in operator["spatial_dims"]
    }
    assert set(named) == set(LAYERS)
    for layer, name in named.items():
        assert layer_of(name) is LAYERS[layer]


def test_vectors_are_written_to_one_file(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 12, 12), np.float32))
    _stdout(command("pool", "x.npy", "--op", "max2d:kernel_size=2+rmac:levels=2", "-o", "v.npy"))
    assert np.load(tmp_path / "v.npy").shape == (3,)
    operators = ["--op", "gem2d:p=3", "--op", "max2d:kernel_size=2+gap2d", "--op", "rmac"]
    _stdout(command("pool", "x.npy", *operators, "-o", "v.npz"))
    with np.load(tmp_path / "v.npz") as arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"gem2d": (3, 1, 1), "max2d_global_avg2d": (3, 1, 1), "rmac2d": (3,)}


def test_a_vector_is_no_image(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (12, 12)).save(tmp_path / "x.png")
    done = command("pool", "x.png", "--op", "rmac", "-o", "v.png")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "poolservice: -o v.png: an image takes an unbatched 2-D result of 1, 3 or 4 channels; "
    )
    assert "RMAC2d gives [3]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "v.png").exists()


def test_an_array_may_have_its_channels_last(tmp_path: Path, command: Command) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    done = command(
        "pool", "x.npy", "--op", "max2d:kernel_size=2", "-o", "y.npy", "--layout", "hwc", "--figure", "y.png"
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = np.moveaxis(pixels, -1, 0).reshape(3, 10, 2, 15, 2).max((2, 4))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
