"""Samples have the pixels that the reference pipeline makes, whatever the image's mode and size."""

import random
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.backbones.preprocessing.image_files import image, pixels, save, turned
from tests.backbones.preprocessing.reference import reference_image, reference_samples, reference_values

from poolservice.errors import InvalidRequest
from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import check_size, interpolation, normalized, pillow_passes, to_samples
from poolservice_server.backbones.preprocessing.geometry import geometry
from poolservice_server.images import decode_scanned, scan
from poolservice_server.stop import WorkStopped

MAX_PIXELS = 2**22
FILTERS: tuple[Any, ...] = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RGB_INPUT = Input(height=224, width=224)


def resized_size(upright: Image.Image, backbone_input: Input, preprocessing: Preprocessing) -> tuple[int, int]:
    columns, rows = geometry(*upright.size, backbone_input, preprocessing)
    return columns.resized, rows.resized


def random_preprocessing(seed: random.Random, channels: int) -> Preprocessing:
    resize: Any = seed.choice(["shortest", "squash", "longest", "none"])
    side, other = (seed.choice([seed.randint(1, 260), 32, 64, 256]) for _ in range(2))
    size: Any = {"none": None, "squash": (side, other)}.get(resize, side)
    return Preprocessing(
        resize=resize,
        size=size,
        rounding=seed.choice(["floor", "round", "ceil"]),
        filter=seed.choice(FILTERS),
        crop_rounding=seed.choice(["round", "floor"]),
        fill=seed.randint(0, 255),
        mean=tuple(seed.random() for _ in range(channels)),
        std=tuple(0.1 + seed.random() for _ in range(channels)),
    )


def random_file(seed: random.Random) -> bytes:
    width, height = (seed.choice([seed.randint(1, 30), seed.randint(1, 600)]) for _ in range(2))
    if seed.random() < 0.15:
        return turned(seed.randint(2, 8), width, height)
    mode = seed.choice(["RGB", "L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
    return save(image(mode, width, height, seed.randint(0, 1000)), "TIFF" if mode == "CMYK" else "PNG")


def random_cases(seed: random.Random) -> Any:
    while True:
        file = random_file(seed)
        mode: Any = seed.choice(["RGB", "RGB", "GRAY"])
        backbone_input = Input(
            height=seed.randint(1, 240),
            width=seed.randint(1, 240),
            color_mode=mode,
            channel_order=seed.choice(["RGB", "BGR"]) if mode == "RGB" else "RGB",
        )
        preprocessing = random_preprocessing(seed, 3 if mode == "RGB" else 1)
        upright = reference_image(file, mode)
        try:
            check_size(*upright.size, backbone_input, preprocessing)
        except InvalidRequest:
            continue
        yield file, upright, backbone_input, preprocessing


def test_images_of_all_modes_and_sizes_become_the_samples_and_values_of_the_reference() -> None:
    for file, upright, backbone_input, preprocessing in islice(random_cases(random.Random(18)), 400):
        planes = decode_scanned(
            scan(file, max_pixels=MAX_PIXELS), backbone_input.color_mode, max_pixels=MAX_PIXELS, interleaved=True
        )
        samples = to_samples(planes, backbone_input, preprocessing)
        case = upright.size, backbone_input, preprocessing
        expected = reference_samples(
            upright, backbone_input, preprocessing, resized_size(upright, backbone_input, preprocessing)
        )
        assert samples.flags.c_contiguous, case
        assert samples.dtype == np.uint8, case
        assert np.array_equal(samples[0], expected), case
        values = normalized(samples, preprocessing)
        assert values.dtype == np.float32, case
        assert np.array_equal(values[0], reference_values(expected, preprocessing)), case


@pytest.mark.parametrize("filter", FILTERS)
def test_an_image_that_is_resized_in_many_pieces_has_the_same_pixels(
    filter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_passes, "PIECE_STEPS", 1.0)
    seed = random.Random(filter)
    # Both orders of Pillow's passes, both axes made smaller and larger, and passes that Pillow skips.
    sizes = [(300, 200), (100, 350), (350, 100), (64, 300), (300, 64), (60, 60), (1, 300), (90, 30)]
    for width, height in sizes:
        original = image("RGB", width, height)
        planes = np.moveaxis(np.asarray(original), -1, 0)
        for resized in [
            (64, 64),
            (200, 180),
            (width, 150),
            (150, height),
            (seed.randint(1, 400), seed.randint(1, 400)),
        ]:
            preprocessing = Preprocessing(resize="squash", size=resized[::-1], filter=filter)
            backbone_input = Input(height=seed.randint(1, 70), width=seed.randint(1, 70))
            expected = reference_samples(original, backbone_input, preprocessing, resized)
            for memory in (planes, np.ascontiguousarray(planes)):
                samples = to_samples(memory, backbone_input, preprocessing)
                assert np.array_equal(samples[0], expected), (width, height, resized, backbone_input)


def test_a_crop_whose_edge_pillow_would_round_is_computed_from_the_whole_image() -> None:
    # The crop ends at 241 * 70001 / 256 pixels of the image, which has one bit more than a float32.
    values = pixels(70_001, 16, 1)[:, :, 0]
    backbone_input = Input(height=16, width=226, color_mode="GRAY")
    preprocessing = Preprocessing(resize="squash", size=(16, 256), filter="box")
    expected = Image.fromarray(values).resize((256, 16), Image.Resampling.BOX).crop((15, 0, 241, 16))
    assert np.array_equal(to_samples(values[None], backbone_input, preprocessing)[0, 0], np.asarray(expected))


def test_an_image_of_the_right_size_is_not_changed() -> None:
    planes = np.moveaxis(pixels(224, 224, 3), -1, 0)
    assert np.array_equal(to_samples(planes, RGB_INPUT, Preprocessing(size=224))[0], planes)


def test_a_sample_shares_no_memory_with_the_image() -> None:
    planes = np.ascontiguousarray(np.moveaxis(pixels(224, 224, 3), -1, 0))
    assert not np.shares_memory(to_samples(planes, RGB_INPUT, Preprocessing(size=224)), planes)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1), (2, 3)])
@pytest.mark.parametrize("resize", ["squash", "none"])
def test_the_smallest_images_become_samples(size: tuple[int, int], resize: Any) -> None:
    planes = np.moveaxis(pixels(*size, 3), -1, 0)
    preprocessing = Preprocessing(resize=resize, filter="bicubic")
    check_size(*size, RGB_INPUT, preprocessing)
    assert to_samples(planes, RGB_INPUT, preprocessing).shape == (1, 3, 224, 224)


def test_an_image_smaller_than_the_crop_is_padded_with_a_value_per_channel() -> None:
    planes = np.zeros((3, 2, 2), np.uint8)
    backbone_input = Input(height=4, width=4, channel_order="BGR")
    samples = to_samples(planes, backbone_input, Preprocessing(resize="none", fill=(1, 2, 3)))
    assert [samples[0, channel, 0, 0] for channel in range(3)] == [1, 2, 3]
    assert not samples[:, :, 1:3, 1:3].any()


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_without_antialias_the_pixels_are_those_of_torch(filter: Any) -> None:
    seed = random.Random(7)
    differing = total = 0
    for _ in range(60):
        width, height, resized_width, resized_height = (seed.randint(1, 300) for _ in range(4))
        planes = np.moveaxis(pixels(width, height, 3, seed.randint(0, 99)), -1, 0)
        preprocessing = Preprocessing(
            resize="squash", size=(resized_height, resized_width), filter=filter, antialias=False
        )
        backbone_input = Input(height=resized_height, width=resized_width)
        samples = to_samples(planes, backbone_input, preprocessing)
        floats = torch.from_numpy(planes.astype(np.float32))[None]
        interpolated = torch.nn.functional.interpolate(
            floats, (resized_height, resized_width), mode=filter, align_corners=False
        )
        expected = interpolated.clamp(0, 255).round().to(torch.uint8).numpy()
        difference = np.abs(samples.astype(int) - expected)
        assert difference.max() <= 1
        # Where they differ, torch's value is a half, within the rounding of float32 sums.
        halves = np.abs(interpolated.numpy() % 1 - 0.5)
        assert halves[difference == 1].max(initial=0) < 1e-3
        differing += int((difference == 1).sum())
        total += difference.size
    assert differing < 1e-3 * total


@pytest.mark.parametrize(
    ("size", "resized"), [((300, 200), (64, 64)), ((60, 300), (64, 64))], ids=["either order", "tall"]
)
@pytest.mark.parametrize("antialias", [True, False])
def test_work_stops_before_the_next_piece_once_nobody_waits(
    size: tuple[int, int], resized: tuple[int, int], antialias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_passes, "PIECE_STEPS", 1.0)
    monkeypatch.setattr(interpolation, "PIECE_STEPS", 1.0)
    calls = iter([False, False, True])
    planes = np.moveaxis(pixels(*size, 3), -1, 0)
    preprocessing = Preprocessing(resize="squash", size=resized, antialias=antialias)
    with pytest.raises(WorkStopped):
        to_samples(planes, Input(height=64, width=64), preprocessing, lambda: next(calls))
    assert next(calls, None) is None


@pytest.mark.parametrize(
    ("side", "resized", "options", "least"),
    [
        # The memory of a piece is limited to 8 MiB, of 64 MB of pixels as Pillow stores them.
        (4000, 100, {"filter": "nearest"}, 7),
        # So is its time: two pieces for each of three planes.
        (50, 1024, {"filter": "bicubic", "antialias": False}, 6),
    ],
    ids=["memory", "time"],
)
def test_a_large_image_is_resized_in_several_pieces(
    side: int, resized: int, options: dict[str, Any], least: int
) -> None:
    calls = []

    def stop() -> bool:
        calls.append(True)
        return False

    planes = np.broadcast_to(np.uint8(7), (3, side, side))
    preprocessing = Preprocessing(resize="squash", **options)
    to_samples(planes, Input(height=resized, width=resized), preprocessing, stop)
    assert len(calls) >= least


def test_pillow_resizes_in_the_expected_order() -> None:
    # If a new version of Pillow changes the order, `pillow_passes` needs another rule.
    seed = random.Random(3)
    for _ in range(300):
        width, height, resized_width, resized_height = (
            seed.choice([seed.randint(1, 30), seed.randint(1, 300)]) for _ in range(4)
        )
        original = Image.fromarray(pixels(width, height, 1, seed.randint(0, 99))[:, :, 0])
        preprocessing = Preprocessing(resize="squash", size=(resized_height, resized_width), filter="bicubic")
        backbone_input = Input(height=resized_height, width=resized_width, color_mode="GRAY")
        axes = geometry(width, height, backbone_input, preprocessing)
        first, _ = pillow_passes.plan_passes(*axes, 1, "bicubic")
        between = (resized_width, height) if first.horizontal else (width, resized_height)
        bicubic = Image.Resampling.BICUBIC
        whole = original.resize((resized_width, resized_height), bicubic)
        assert whole == original.resize(between, bicubic).resize(whole.size, bicubic), (original.size, whole.size)
