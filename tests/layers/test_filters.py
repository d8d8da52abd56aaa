"""Filters before subsampling, against references written from the papers' formulas."""

import itertools
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.layers.test_every_layer import pooled

from poolservice import specs
from poolservice.errors import InvalidRequest
from poolservice.specs import (
    BlurPool2d,
    MaxBlurPool2d,
    PoolSpec,
    SpectralPool1d,
    SpectralPool2d,
    WaveletPool1d,
    WaveletPool2d,
)
from poolservice_server.operator_shapes import output_shape

Array = np.ndarray[Any, Any]

CASES = 20

PASCAL = {
    1: [1],
    2: [1, 1],
    3: [1, 2, 1],
    4: [1, 3, 3, 1],
    5: [1, 4, 6, 4, 1],
    6: [1, 5, 10, 10, 5, 1],
    7: [1, 6, 15, 20, 15, 6, 1],
}


def values_of(random: Random, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(random.getrandbits(32)).standard_normal(shape).astype(np.float32)


def layer(name: str, dims: int, *args: Any, **kwargs: Any) -> PoolSpec:
    spec: PoolSpec = getattr(specs, f"{name}{dims}d")(*args, **kwargs)
    return spec


def pool_of(spec: PoolSpec, sample: Array) -> Array:
    result: Array = pooled(spec, sample[None])[0]
    return result


def assert_close(got: Array, expected: Array) -> None:
    """Assert that values agree to 1e-5, relative to the largest of their result."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


# --- Binomial filters ---


def value_at(plane: Array, position: tuple[int, ...], mode: str) -> float:
    """Return the value at a position that may be beyond the edges."""
    inside = []
    for place, size in zip(position, plane.shape, strict=True):
        if mode == "zeros" and not 0 <= place < size:
            return 0.0
        if mode == "replicate":
            inside.append(min(max(place, 0), size - 1))
        else:
            inside.append(-place if place < 0 else 2 * (size - 1) - place if place >= size else place)
    return float(plane[tuple(inside)])


def blurred(plane: Array, kernel: tuple[int, ...], stride: tuple[int, ...], mode: str) -> Array:
    out = np.zeros([math.ceil(size / step) for size, step in zip(plane.shape, stride, strict=True)])
    for place in np.ndindex(out.shape):
        for offset in itertools.product(*map(range, kernel)):
            weight = math.prod(PASCAL[size][k] / 2 ** (size - 1) for size, k in zip(kernel, offset, strict=True))
            position = tuple(
                i * step + k - (size - 1) // 2 for i, step, k, size in zip(place, stride, offset, kernel, strict=True)
            )
            out[place] += weight * value_at(plane, position, mode)
    return out


def maxima_of(plane: Array, window: tuple[int, ...]) -> Array:
    out = np.zeros([size - length + 1 for size, length in zip(plane.shape, window, strict=True)])
    for place in np.ndindex(out.shape):
        out[place] = plane[tuple(slice(i, i + length) for i, length in zip(place, window, strict=True))].max()
    return out


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_blur_pools_are_binomial_means_of_windows(dims: int, mode: str) -> None:
    random = Random(f"{dims} {mode}")
    for number in range(CASES // dims):
        spatial = tuple(random.randint(6, 20 // dims) for _ in range(dims))
        kernel = tuple(random.randint(1, 7) for _ in range(dims))
        stride = tuple(random.randint(1, 3) for _ in range(dims))
        window = tuple(random.randint(1, 3) for _ in range(dims))
        # torch's kernel for one filter per channel computes 2-D filters of many channels.
        channels = 1000 if dims == 2 and number % 2 else 2
        sample = values_of(random, (channels, *spatial))
        spec = layer("BlurPool", dims, kernel, stride, mode)
        assert_close(
            pool_of(spec, sample)[-2:], np.stack([blurred(plane, kernel, stride, mode) for plane in sample[-2:]])
        )
        if all(size - length >= 3 for size, length in zip(spatial, window, strict=True)):
            spec = layer("MaxBlurPool", dims, kernel, stride, window, mode)
            expected = [blurred(maxima_of(plane, window), kernel, stride, mode) for plane in sample[-2:]]
            assert_close(pool_of(spec, sample)[-2:], np.stack(expected))


def test_blur_pools_give_the_published_values_of_kornia() -> None:
    # kornia adds zeros at the edges. These are the examples in its documentation.
    identity = np.eye(5, dtype=np.float32)[None]
    blur = pool_of(BlurPool2d(3, padding_mode="zeros"), identity)
    assert blur.tolist() == [[[0.3125, 0.0625, 0.0], [0.0625, 0.375, 0.0625], [0.0, 0.0625, 0.3125]]]
    max_blur = pool_of(MaxBlurPool2d(3, padding_mode="zeros"), identity)
    assert max_blur.tolist() == [[[0.5625, 0.3125], [0.3125, 0.875]]]


@pytest.mark.parametrize("channels", [1, 400])
def test_a_blur_pool_gives_nan_only_where_its_filter_reaches(channels: int) -> None:
    sample = np.ones((channels, 12, 12), np.float32)
    sample[0, 6, 6] = np.nan
    sample[-1, 0, 0] = 3e38
    result = pool_of(BlurPool2d(4), sample)
    is_reached = np.zeros((6, 6), bool)
    # The windows begin at 2 * i - 1.
    is_reached[2:4, 2:4] = True
    assert (np.isnan(result[0]) == is_reached).all()
    assert np.isfinite(result[1:]).all()


def test_reflection_needs_more_values_than_it_mirrors() -> None:
    assert output_shape(BlurPool2d(7), (3, 4, 9)) == (3, 2, 5)
    with pytest.raises(InvalidRequest, match="must have more than 3 values; got 3") as error:
        output_shape(BlurPool2d(7), (3, 9, 3))
    assert error.value.field == "kernel_size"
    assert output_shape(BlurPool2d(7, padding_mode="zeros"), (3, 9, 1)) == (3, 5, 1)


# --- Haar wavelets ---


def approximation(plane: Array, levels: int, factor: float) -> Array:
    for _ in range(levels):
        for axis in range(plane.ndim):
            if plane.shape[axis] % 2:
                plane = np.concatenate([plane, plane.take([-1], axis)], axis)
            pairs = plane.take(range(0, plane.shape[axis], 2), axis), plane.take(range(1, plane.shape[axis], 2), axis)
            plane = (pairs[0] + pairs[1]) * factor
    return plane


@pytest.mark.parametrize("norm", ["ortho", "mean"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_wavelet_pool_is_the_approximation_of_its_last_level(dims: int, norm: str) -> None:
    random = Random(f"{dims} {norm}")
    factor = 1 / math.sqrt(2) if norm == "ortho" else 0.5
    for _ in range(CASES):
        spatial = tuple(random.randint(5, 17) for _ in range(dims))
        levels = random.randint(1, 3)
        sample = values_of(random, (2, *spatial))
        expected = np.stack([approximation(plane.astype(np.float64), levels, factor) for plane in sample])
        assert_close(pool_of(layer("WaveletPool", dims, levels, norm), sample), expected)


def test_a_wavelet_pool_gives_the_values_of_pywavelets() -> None:
    # pywt.wavedec([1, 2, 3, 4, 5], "haar", level=2)[0]
    result = pool_of(WaveletPool1d(2), np.array([[1, 2, 3, 4, 5]], np.float64))
    np.testing.assert_allclose(result, [[5, 10]], rtol=1e-12)


def test_each_level_of_a_wavelet_pool_needs_two_values() -> None:
    assert output_shape(WaveletPool2d(4), (3, 9, 30)) == (3, 1, 2)
    with pytest.raises(InvalidRequest, match="must be at most 4 for a dimension of 9") as error:
        output_shape(WaveletPool2d(5), (3, 9, 30))
    assert error.value.field == "levels"


# --- Fourier transforms ---


def cropped(values: Array, size: int, norm: str) -> Array:
    """Pool the last axis: sum the frequencies from -size / 2 to size / 2, of which the ends have half the weight."""
    length = values.shape[-1]
    out = np.zeros((*values.shape[:-1], size), complex)
    for frequency in range(-(size // 2), size // 2 + 1):
        weight = 0.5 if 2 * abs(frequency) == size else 1.0
        spectrum = values @ np.exp(-2j * np.pi * frequency * np.arange(length) / length)
        out += weight * spectrum[..., None] * np.exp(2j * np.pi * frequency * np.arange(size) / size)
    assert np.abs(out.imag).max() <= 1e-9 * np.abs(out.real).max()
    return out.real / (length if norm == "mean" else math.sqrt(length * size))


@pytest.mark.parametrize("norm", ["ortho", "mean"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_spectral_pool_keeps_the_lowest_frequencies(dims: int, norm: str) -> None:
    random = Random(f"{dims} {norm}")
    for _ in range(CASES):
        spatial = tuple(random.randint(1, 24 // dims) for _ in range(dims))
        sizes = tuple(random.randint(1, size) for size in spatial)
        sample = values_of(random, (2, *spatial))
        expected = sample.astype(np.float64)
        for axis, size in enumerate(sizes, 1):
            expected = np.moveaxis(cropped(np.moveaxis(expected, axis, -1), size, norm), -1, axis)
        assert_close(pool_of(layer("SpectralPool", dims, sizes, norm), sample), expected)


def test_a_spectral_pool_of_odd_sizes_is_the_inverse_of_the_centered_crop() -> None:
    sample = values_of(Random(1), (2, 12, 11))
    spectrum = np.fft.fftshift(np.fft.fft2(sample, norm="ortho"), (1, 2))
    # The constant part is at 6 and 5.
    crop = np.fft.ifftshift(spectrum[:, 6 - 2 : 6 + 3, 5 - 3 : 5 + 4], (1, 2))
    assert_close(pool_of(SpectralPool2d((5, 7)), sample), np.fft.ifft2(crop, norm="ortho").real)


def test_a_spectral_pool_keeps_the_mean_and_a_wave_below_its_nyquist_frequency() -> None:
    wave = 5 + np.cos(2 * np.pi * 3 * np.arange(64) / 64)
    expected = 5 + np.cos(2 * np.pi * 3 * np.arange(8) / 8)
    result = pool_of(SpectralPool1d(8, "mean"), wave[None])
    np.testing.assert_allclose(result[0], expected, rtol=1e-12)


def test_a_spectral_pool_leaves_out_frequencies_only() -> None:
    with pytest.raises(InvalidRequest, match="at most the input's size, 7") as error:
        output_shape(SpectralPool2d((5, 8)), (3, 9, 7))
    assert error.value.field == "output_size"
    assert output_shape(SpectralPool2d((5, None)), (3, 9, 7)) == (3, 5, 7)


# --- Parameters ---


@pytest.mark.parametrize(
    ("name", "parameters", "field", "reason"),
    [
        ("BlurPool2d", {"kernel_size": 8}, "kernel_size", "must be from 1 to 7; got 8"),
        ("BlurPool2d", {"kernel_size": (3, 0)}, "kernel_size", "must be from 1 to"),
        ("BlurPool2d", {"stride": 0}, "stride", "must be from 1 to"),
        ("BlurPool2d", {"padding_mode": "circular"}, "padding_mode", "must be one of reflect, replicate, zeros"),
        ("MaxBlurPool2d", {"max_pool_size": 0}, "max_pool_size", "must be from 1 to"),
        ("MaxBlurPool2d", {"kernel_size": 8}, "kernel_size", "must be from 1 to 7; got 8"),
        ("WaveletPool2d", {"levels": 0}, "levels", "must be from 1 to 31; got 0"),
        ("WaveletPool2d", {"norm": "max"}, "norm", "must be one of ortho, mean"),
        ("SpectralPool2d", {"output_size": 0}, "output_size", "must be from 1 to"),
        ("SpectralPool2d", {"output_size": 3, "norm": "max"}, "norm", "must be one of ortho, mean"),
    ],
)
def test_wrong_parameters_are_refused_in_words(name: str, parameters: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as error:
        getattr(specs, name)(**parameters)
    assert error.value.field == field


def test_the_maximum_of_a_max_blur_pool_fits_into_the_input() -> None:
    with pytest.raises(
        InvalidRequest, match="no window fits: a max_pool_size of 5 is larger than the input, 4"
    ) as error:
        output_shape(MaxBlurPool2d(max_pool_size=5), (3, 9, 4))
    assert error.value.field == "max_pool_size"
    with pytest.raises(InvalidRequest, match="reflects 2 values") as error:
        output_shape(MaxBlurPool2d(4, max_pool_size=3), (3, 9, 4))
    assert error.value.field == "kernel_size"


def test_representations_leave_out_defaults() -> None:
    assert repr(BlurPool2d()) == "BlurPool2d()"
    assert repr(MaxBlurPool2d(3, max_pool_size=3)) == "MaxBlurPool2d(kernel_size=3, max_pool_size=3)"
