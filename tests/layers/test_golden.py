"""Layers have the values of torchvision, timm, kornia and other libraries; see `generate_golden.py`."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.layers import head_folders
from tests.layers.golden_cases import CASES, DIFFERENCES, HEADS, samples_of
from tests.layers.test_every_layer import pooled

from poolservice.specs import BlurPool2d, RMAC2d
from poolservice_server.pool_heads.folder import read_head
from poolservice_server.pool_heads.head import PoolHeads

Array = np.ndarray[Any, Any]

with np.load(Path(__file__).with_name("golden.npz")) as _file:
    GOLDEN: dict[str, Array] = dict(_file)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> PoolHeads:
    """Return the heads of the cases, as a server loads them."""
    folder = tmp_path_factory.mktemp("heads")
    loaded = {}
    for name, (head, _, _) in HEADS.items():
        example = head_folders.HEADS["pca"]._replace(kind=head.kind, parameters=head.parameters)
        loaded[name] = read_head(example.write(folder / name, head.weights()), name)
    return PoolHeads(loaded)


def difference(name: str) -> tuple[Array, Array, Array]:
    """Return the samples of a case in which a library differs, its result there, and that of poolservice."""
    case = DIFFERENCES[name]
    samples = samples_of(case)
    return samples, GOLDEN[name], pooled(case.spec, samples)


def assert_close(got: Array, expected: Array) -> None:
    """Assert that values agree to 1e-5 of the largest of them."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, 0, 1e-5 * float(np.abs(expected).max()))


def test_every_case_has_the_values_of_its_library() -> None:
    assert GOLDEN.keys() - {"versions"} == CASES.keys() | DIFFERENCES.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_the_library(name: str, heads: PoolHeads) -> None:
    case = CASES[name]
    got = pooled(heads.resolve(case.spec), samples_of(case))
    if case.spec.keeps_dtype:
        # Maxima, medians and ranks are values of the samples.
        np.testing.assert_array_equal(got, GOLDEN[name])
    else:
        assert_close(got, GOLDEN[name])


def test_an_empty_box_gives_0_where_torchvision_divides_0_by_0() -> None:
    # torchvision's roi_align gives 0 for the same box, as it divides by at least 1.
    _, expected, got = difference("torchvision.ops.ps_roi_align: an empty box")
    assert np.isnan(expected[:, 0]).all()
    assert not got[:, 0].any()
    assert_close(got[:, 1], expected[:, 1])


def test_bins_of_whole_rows_are_exact_where_torchvision_rounds_their_height() -> None:
    # The box has rows 0 to 56. The last one of 7 bins begins at row 48 and ends with the box. torchvision's bins have
    # float32(57 / 7) rows, 7 times that is more than 57, and so its last bin has row 57, too.
    samples, expected, got = difference("torchvision.ops.roi_pool: 57 rows in 7 bins")
    np.testing.assert_array_equal(got[:, 0, :, :6], expected[:, 0, :, :6])
    np.testing.assert_array_equal(got[0, 0, :, 6, 0], samples[0, :, 48:57].max((1, 2)))
    np.testing.assert_array_equal(expected[0, 0, :, 6, 0], samples[0, :, 48:58].max((1, 2)))
    assert (got != expected).any()

    samples, expected, got = difference("torchvision.ops.ps_roi_pool: 57 rows in 7 bins")
    assert_close(got[:, 0, :, :6], expected[:, 0, :, :6])
    channels = samples[0, 6::7, :, :4].astype(np.float64)
    assert_close(got[0, 0, :, 6, 0], channels[:, 48:57].mean((1, 2)))
    assert_close(expected[0, 0, :, 6, 0], channels[:, 48:58].mean((1, 2)))


def test_corners_are_scaled_in_float64_where_torchvision_scales_them_in_float32() -> None:
    # The corner is at 2.4999999, which float32 rounds to 2.5 and roi_pool to 3 instead of 2.
    samples, expected, got = difference("torchvision.ops.roi_pool: a corner near half a pixel")
    np.testing.assert_array_equal(got[0, 0, :, 0, 0], samples[0, :, :4, :3].max((1, 2)))
    np.testing.assert_array_equal(expected[0, 0, :, 0, 0], samples[0, :, :4, :4].max((1, 2)))
    assert (got != expected).any()


@pytest.mark.parametrize("name", [name for name in DIFFERENCES if "BlurPool2d" in name])
def test_timm_pads_both_sides_alike(name: str) -> None:
    # The author's code pads by floor((K - 1) / 2) on the left, and so does poolservice, whatever the stride. timm pads
    # by more if K is even or the stride larger than 2, so that the windows begin elsewhere.
    samples, expected, _ = difference(name)
    spec: Any = DIFFERENCES[name].spec
    kernel, stride = spec.kernel_size[0], spec.stride[0]
    padding = (stride + kernel - 2) // 2
    assert padding > (kernel - 1) // 2
    mode: Any = {"zeros": "constant"}.get(spec.padding_mode, spec.padding_mode)
    padded = np.pad(samples, [(0, 0), (0, 0), (padding, padding), (padding, padding)], mode)
    filtered = pooled(BlurPool2d(kernel, 1, "zeros"), padded)
    starts = [np.arange(0, size - kernel + 1, stride) + (kernel - 1) // 2 for size in padded.shape[2:]]
    assert_close(filtered[:, :, starts[0][:, None], starts[1]], expected)


def test_the_regions_of_rmac_follow_float64_where_cirtorch_computes_them_in_float32() -> None:
    # 2 regions of 5 columns overlap by 20 % in 9 columns, and 3 regions by 60 %: both are equally far from the wanted
    # 40 %. float64, as in Matlab, rounds so that 60 % are nearer. cirtorch's float32 takes the first of the two.
    samples, expected, _ = difference("cirtorch.rmac: 5 by 9")
    assert [len(grid.lefts) for grid in RMAC2d().grids(5, 9)] == [3, 4, 5]
    total = np.zeros((2, 6))
    for level in (1, 2, 3):
        size = 10 // (level + 1)
        lefts = [math.floor(number * (9 - size) / level) for number in range(level + 1)]
        tops = [math.floor(number * (5 - size) / max(level - 1, 1)) for number in range(level)]
        for top, left in product(tops, lefts):
            maxima = samples[:, :, top : top + size, left : left + size].max((2, 3)).astype(np.float64)
            total += maxima / np.linalg.norm(maxima, axis=1, keepdims=True)
    assert_close(total / np.linalg.norm(total, axis=1, keepdims=True), expected)


def test_scipy_counts_the_highest_frequency_of_an_even_size_twice() -> None:
    # Of 12 values, 6 are left, with the frequencies -3 to 3. 3 and -3 are one frequency of the result. poolservice
    # takes the mean of their terms, as the paper keeps one of them; scipy takes their sum.
    samples, expected, got = difference("scipy.signal.resample: an even size")
    highest = np.fft.fft(samples.astype(np.float64))[:, :, 3:4].real / 12
    assert_close(got + highest * (-1.0) ** np.arange(6), expected)
