"""layout="HWC": tensors with their channels last, and the warning for tensors that look like it."""

import asyncio
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from poolservice_client import AsyncPoolClient, AvgPool1d, InvalidRequest, MaxPool2d, MaxPool3d, PoolClient, PoolSpec

SPEC = MaxPool2d(2)
HWC = np.random.default_rng(22).integers(0, 256, (48, 64, 3), dtype=np.uint8)
CHW = np.ascontiguousarray(np.moveaxis(HWC, -1, 0))
POOLED = CHW.reshape(3, 24, 2, 32, 2).max((2, 4))
LOOKS_LIKE_HWC = r"\(48, 64, 3\) is pooled as 48 channels of 64 x 3; .* pass layout=\"HWC\"; .* layout=\"CHW\" avoids"


async def pool(client_class: type[Any], address: str, x: Any, spec: Any = SPEC, **options: Any) -> list[Any]:
    """Return what `pool` returns, and what `map` yields."""
    if client_class is PoolClient:
        with PoolClient(address) as client:
            return [client.pool(x, spec, **options), *client.map([x], spec, **options)]
    async with AsyncPoolClient(address) as aclient:
        return [await aclient.pool(x, spec, **options), *[one async for one in aclient.map([x], spec, **options)]]


both_clients = pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])


@both_clients
async def test_the_channels_are_moved_to_the_front(client_class: type[Any], server_address: str) -> None:
    for y in await pool(client_class, server_address, HWC, layout="HWC"):
        np.testing.assert_array_equal(y, POOLED)
    for y in await pool(client_class, server_address, np.stack([HWC, HWC]), layout="HWC"):
        np.testing.assert_array_equal(y, np.stack([POOLED, POOLED]))


@both_clients
async def test_an_array_of_a_file_has_its_channels_last_too(
    client_class: type[Any], server_address: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", HWC)
    for y in await pool(client_class, server_address, tmp_path / "x.npy", layout="HWC"):
        np.testing.assert_array_equal(y, POOLED)


@both_clients
async def test_images_are_not_affected(client_class: type[Any], server_address: str, photograph: Path) -> None:
    file = io.BytesIO()
    image = PIL.Image.fromarray(HWC)
    image.save(file, "PNG")
    for x in (image, photograph, file.getvalue()):
        expected = await pool(client_class, server_address, x)
        for layout in ("CHW", "HWC"):
            np.testing.assert_array_equal(await pool(client_class, server_address, x, layout=layout), expected)


@both_clients
async def test_pool_image_takes_the_array_of_an_image(client_class: type[Any], server_address: str) -> None:
    if client_class is PoolClient:
        with PoolClient(server_address) as client:
            image = client.pool_image(HWC, SPEC, layout="HWC")
    else:
        async with AsyncPoolClient(server_address) as aclient:
            image = await aclient.pool_image(HWC, SPEC, layout="HWC")
    assert (image.mode, image.size) == ("RGB", (32, 24))
    np.testing.assert_array_equal(np.asarray(image), np.moveaxis(POOLED, 0, -1))


@both_clients
async def test_a_tensor_that_looks_like_an_image_with_channels_last_gives_a_warning(
    client_class: type[Any], server_address: str
) -> None:
    # The other client may have warned about the same shape and dtype already.
    x = HWC.astype(np.float32 if client_class is PoolClient else np.float64)
    with pytest.warns(UserWarning, match=LOOKS_LIKE_HWC) as warned:
        y, mapped = await pool(client_class, server_address, x)
    assert y.shape == mapped.shape == (48, 32, 1)
    # The warning names the caller's code, unless another thread or task prepares the input. It comes once per shape.
    assert [Path(one.filename).name for one in warned] == [Path(__file__).name]


@both_clients
async def test_the_layout_of_torch_gives_no_warning_if_it_is_passed(
    client_class: type[Any], server_address: str
) -> None:
    for y in await pool(client_class, server_address, HWC, layout="CHW"):
        assert y.shape == (48, 32, 1)


@pytest.mark.parametrize(
    ("shape", "specs"),
    [
        ((3, 48, 64), SPEC),
        ((3, 48, 3), SPEC),
        ((48, 64, 5), SPEC),
        # Feature maps, whose width is small because they are.
        ((256, 4, 4), SPEC),
        ((2048, 3, 3), SPEC),
        ((8, 256, 4, 4), SPEC),
        ((48, 64, 4), AvgPool1d(2)),
        ((48, 64, 16, 4), MaxPool3d(2)),
    ],
)
def test_other_tensors_give_no_warning(client: PoolClient, shape: tuple[int, ...], specs: PoolSpec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.pool(np.zeros(shape, np.uint8), specs)


@pytest.mark.parametrize(
    ("x", "specs", "layout", "field", "message"),
    [
        (HWC, SPEC, "hwc", "layout", 'must be "CHW" or "HWC"; got \'hwc\''),
        (HWC, SPEC, 1, "layout", "got 1"),
        (HWC, AvgPool1d(2), "HWC", "layout", "2-D specs; move the channels of a tensor for AvgPool1d to the front"),
        (HWC, [SPEC, MaxPool3d(2)], "HWC", "layout", "MaxPool3d"),
        (HWC[0], SPEC, "HWC", "x.shape", "a tensor is (H, W, C) or (N, H, W, C); got shape (64, 3)"),
    ],
)
def test_a_wrong_layout_is_refused_before_anything_is_sent(
    client: PoolClient, x: Any, specs: PoolSpec | Sequence[PoolSpec], layout: Any, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.pool(x, specs, layout=layout)
    assert raised.value.field == field
    assert message in raised.value.reason
    assert client.stats().calls == 0


async def test_concurrent_small_calls_have_their_own_layouts(server_address: str) -> None:
    async with AsyncPoolClient(server_address) as client:
        calls = [client.pool(HWC, SPEC, layout="HWC") if n % 2 else client.pool(CHW, SPEC) for n in range(20)]
        for y in await asyncio.gather(*calls):
            np.testing.assert_array_equal(y, POOLED)


def test_a_map_may_reuse_the_array_of_an_input(client: PoolClient) -> None:
    def frames() -> Any:
        frame = np.empty_like(HWC)
        for value in range(5):
            frame[:] = value
            yield frame

    assert [int(y.max()) for y in client.map(frames(), SPEC, layout="HWC")] == list(range(5))
