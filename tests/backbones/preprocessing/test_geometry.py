"""The sizes that images are resized to, the part that a backbone sees, and the images that are refused."""

from typing import Any

import numpy as np
import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import check_size, region, to_samples
from poolservice_server.backbones.preprocessing.geometry import geometry

INPUT = Input(height=224, width=224)


@pytest.mark.parametrize(
    ("image", "preprocessing", "resized"),
    [
        ((640, 480), {"size": 256}, (341, 256)),  # 341.33
        ((480, 640), {"size": 256}, (256, 341)),
        ((500, 375), {"size": 248}, (330, 248)),  # 330.67
        ((500, 375), {"size": 248, "rounding": "round"}, (331, 248)),
        ((500, 375), {"size": 248, "rounding": "ceil"}, (331, 248)),
        ((640, 480), {"size": 256, "rounding": "ceil"}, (342, 256)),
        ((256, 256), {"size": 224}, (224, 224)),
        ((640, 480), {"size": (248, 213), "rounding": "round"}, (331, 248)),
        ((100, 480), {"size": (248, 213), "rounding": "round"}, (213, 1022)),
        ((640, 480), {"resize": "longest", "size": 224}, (224, 168)),
        ((480, 640), {"resize": "longest", "size": 224}, (168, 224)),
        ((100, 99), {"resize": "longest", "size": 224, "rounding": "round"}, (224, 222)),
        ((640, 480), {"resize": "squash"}, (224, 224)),
        ((640, 480), {"resize": "squash", "size": (235, 240)}, (240, 235)),
        ((640, 480), {"resize": "none"}, (640, 480)),
        # timm divides by 576 / 224, which is rounded: the quotient is 227.49999999999997 instead of 227.5.
        ((585, 576), {"size": 224, "rounding": "round"}, (227, 224)),
    ],
)
def test_the_resized_size(image: tuple[int, int], preprocessing: dict[str, Any], resized: tuple[int, int]) -> None:
    columns, rows = geometry(*image, INPUT, Preprocessing(**preprocessing))
    assert (columns.resized, rows.resized) == resized


def test_without_a_size_an_image_is_squashed_to_the_width_and_height_of_the_input() -> None:
    columns, rows = geometry(640, 480, Input(height=100, width=200), Preprocessing(resize="squash"))
    assert (columns.resized, rows.resized) == (200, 100)


@pytest.mark.parametrize(
    ("side", "rounding", "offset"),
    [
        (341, "round", 58),  # 58.5 is rounded to even.
        (341, "floor", 58),
        (343, "round", 60),  # So is 59.5.
        (343, "floor", 59),
        (224, "round", 0),
        (219, "round", -2),  # torchvision pads 2 before the image and 3 behind it.
        (219, "floor", -3),  # Hugging Face pads 3 before it.
    ],
)
def test_the_crop_is_rounded_as_by_the_reference(side: int, rounding: Any, offset: int) -> None:
    preprocessing = Preprocessing(resize="none", crop_rounding=rounding)
    columns, rows = geometry(side, side, INPUT, preprocessing)
    assert columns.offset == rows.offset == offset


def test_the_region_of_a_crop_is_in_pixels_of_the_image() -> None:
    left, top, right, bottom = region(682, 512, INPUT, Preprocessing(size=256))
    assert (left, top, right, bottom) == (116, 32, 564, 480)


def test_the_region_of_a_squashed_image_is_the_whole_image() -> None:
    assert region(640, 480, INPUT, Preprocessing(resize="squash")) == (0, 0, 640, 480)


def test_the_region_extends_beyond_an_image_that_is_padded() -> None:
    assert region(448, 224, INPUT, Preprocessing(resize="longest", size=224)) == (0, -112, 448, 336)


def test_the_region_is_where_the_pixels_of_a_sample_come_from() -> None:
    # The image brightens by one gray level per pixel from left to right.
    planes = np.broadcast_to(np.arange(40, 240, dtype=np.uint8), (3, 150, 200))
    backbone_input, preprocessing = Input(height=50, width=50), Preprocessing(size=75)
    samples = to_samples(planes, backbone_input, preprocessing)
    left, _, right, _ = region(200, 150, backbone_input, preprocessing)
    assert abs(samples[0, 0, 0, 0] - (40 + left + 0.5)) <= 1
    assert abs(samples[0, 0, 0, -1] - (40 + right - 1.5)) <= 1


@pytest.mark.parametrize("image", [(1, 1), (5000, 5000), (7168, 256), (256, 7168)])
def test_images_of_usual_shapes_are_accepted(image: tuple[int, int]) -> None:
    check_size(*image, INPUT, Preprocessing(size=256))


@pytest.mark.parametrize("image", [(1, 10_000), (10_000, 1), (256, 7169), (7169, 256)])
def test_an_image_that_resizing_would_make_too_long_is_refused_with_both_sizes(image: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"is too elongated: .* the limit is 7168 x 7168") as raised:
        check_size(*image, INPUT, Preprocessing(size=256))
    assert raised.value.field == "image.data"
    assert f"{image[0]} x {image[1]}" in raised.value.reason


def test_each_side_of_a_resized_image_has_the_limit_of_its_own_side_of_the_input() -> None:
    backbone_input, preprocessing = Input(height=10, width=20), Preprocessing(size=20)
    check_size(640, 20, backbone_input, preprocessing)
    check_size(20, 320, backbone_input, preprocessing)
    for image in ((641, 20), (20, 321)):
        with pytest.raises(InvalidRequest, match="the limit is 640 x 320"):
            check_size(*image, backbone_input, preprocessing)


def test_an_image_of_which_resizing_would_leave_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="resizing for the backbone would make it 224 x 0") as raised:
        check_size(10_000, 1, INPUT, Preprocessing(resize="longest", size=224))
    assert raised.value.field == "image.data"


@pytest.mark.parametrize("image", [(1, 10_000), (10_000, 1), (3, 100_000)])
@pytest.mark.parametrize("resize", ["squash", "none"])
def test_an_elongated_image_is_accepted_if_resizing_does_not_make_it_longer(
    image: tuple[int, int], resize: Any
) -> None:
    preprocessing = Preprocessing(resize=resize)
    check_size(*image, INPUT, preprocessing)
    planes = np.zeros((3, image[1], image[0]), np.uint8)
    assert to_samples(planes, INPUT, preprocessing).shape == (1, 3, 224, 224)


def test_without_resize_and_crop_an_image_must_have_the_inputs_size() -> None:
    preprocessing = Preprocessing(resize="none", crop="none")
    check_size(224, 224, INPUT, preprocessing)
    with pytest.raises(
        InvalidRequest, match="has 224 x 225 pixels, and the backbone takes images of 224 x 224"
    ) as raised:
        check_size(224, 225, INPUT, preprocessing)
    assert raised.value.field == "image.data"
