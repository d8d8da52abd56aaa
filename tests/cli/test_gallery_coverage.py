"""Which layers a gallery shows: those of the server, of two dimensions, with the pool heads that fit."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.layers.head_folders import HEADS

from poolservice.specs import LAYERS, PoolHead2d, PoolSpec, Sequential2d
from poolservice_client import AsyncPoolClient, HeadInfo, OperatorInfo, PoolClient, ServerInfo
from poolservice_client._cli.gallery_run import coverage, pool_all
from poolservice_client._cli.gallery_sheet import Group, Result, draw
from poolservice_client._cli.gallery_table import GALLERY, Sample, Unpooling, of_head
from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

_HEAD = HeadInfo("place", "netvlad", "", "MIT", "", "", 8, (), (4,), 64, "SERVING", "")


@pytest.fixture(scope="module")
def info(server_address: str) -> ServerInfo:
    with PoolClient(server_address) as client:
        return client.server_info()


def test_a_server_with_fewer_and_other_operators_has_a_gallery(info: ServerInfo) -> None:
    newer = OperatorInfo("newer_pool", "", (2,), ())
    of_sequences = OperatorInfo("max_pool", "", (1,), ())
    average = next(operator for operator in info.operators if operator.name == "avg_pool")
    covered = coverage(replace(info, operators=(newer, of_sequences, average)))
    assert covered.shown == ["avg_pool"]
    assert covered.unknown == ["newer_pool"]
    assert covered.other_dims == ["max_pool"]
    assert set(covered.lacking) == set(GALLERY) - {"avg_pool", "max_pool"}


@pytest.mark.parametrize("shape", [(3, 384, 320), (3, 2, 2), (1280, 7, 7), (2048, 8, 16), (1, 30, 40)])
def test_every_example_is_a_layer_of_its_own_operator(shape: tuple[int, int, int]) -> None:
    for operator, entry in GALLERY.items():
        assert entry.examples or operator == "pool_head"
        for example in entry.examples:
            layer = example(Sample(*shape))
            if isinstance(layer, Unpooling):
                layer = layer.then(np.zeros((shape[0], shape[1] // 2, shape[2] // 2), np.int64))
            assert isinstance(layer, LAYERS[operator, 2] if operator != "sequential" else Sequential2d)


def test_a_pool_head_is_shown_if_the_sample_fits_it() -> None:
    def fitting(shape: tuple[int, int, int], **changes: Any) -> list[str]:
        return [head.name for head in Sample(*shape, heads=[replace(_HEAD, **changes)]).fitting_heads()]

    assert fitting((8, 7, 5)) == ["place"]
    assert fitting((3, 7, 5)) == []
    assert fitting((8, 7, 5), spatial_shape=(7, 5)) == ["place"]
    assert fitting((8, 7, 5), spatial_shape=(5, 7)) == []
    assert fitting((8, 7, 5), state="BROKEN") == []
    assert fitting((8, 7, 5), kind="pca_whitening", spatial_shape=(1, 1)) == ["place"]


def test_whitening_follows_a_layer_that_gives_vectors() -> None:
    sample = Sample(8, 7, 5)
    assert of_head(_HEAD)(sample) == PoolHead2d("place")
    whitening: PoolSpec | Unpooling = of_head(replace(_HEAD, kind="pca_whitening"))(sample)
    assert isinstance(whitening, Sequential2d)
    assert whitening.layers[-1] == PoolHead2d("place")


def test_a_photograph_of_one_pixel_has_a_sheet_with_reasons(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "pixel.png")
    done = command("gallery", "pixel.png", "-o", "sheet.png", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    layers = json.loads(done.stdout)["layers"]
    reasons = {one["layer"].partition("(")[0]: one["reason"] for one in layers if one["reason"]}
    assert "MaxPool2d" in reasons
    assert "kernel_size" in reasons["MaxPool2d"]
    assert not any("specs[0]" in reason for reason in reasons.values())
    assert "GlobalAvgPool2d" not in reasons


def test_a_photograph_on_its_side_is_upright_in_the_gallery(command: Command, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 20, 30)).save(tmp_path / "side.jpg", exif=exif)
    done = command("gallery", "side.jpg", "-o", "sheet.png", "--json")
    layers = {one["layer"]: one["shape"] for one in json.loads(done.stdout)["layers"]}
    assert layers["StripPool2d()"] == [3, 40, 20]


@pytest.mark.parametrize("content", [b"P5 4x 4 255\n" + bytes(16), b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff"])
def test_a_damaged_photograph_is_refused_in_a_sentence(command: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged").write_bytes(content)
    done = command("gallery", "damaged", "-o", "sheet.png")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("poolservice: damaged: not an image that can be read")


def test_a_huge_photograph_is_refused_by_the_server_without_a_warning_of_pillow(
    command: Command, tmp_path: Path
) -> None:
    size = struct.pack("<HH", 12000, 9000)
    frame = b"," + bytes(4) + size + b"\x00\x02\x01\x00\x00"
    (tmp_path / "huge.gif").write_bytes(b"GIF89a" + size + b"\x80\x00\x00" + bytes(6) + frame + b";")
    done = command("gallery", "huge.gif", "-o", "sheet.png")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "12000" in done.stderr


def test_without_a_server_the_gallery_says_so(offline: Command, unused_address: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    done = offline("gallery", "photo.png", "-o", "sheet.png", "--timeout", 2, "--address", unused_address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert not (tmp_path / "sheet.png").exists()


def test_long_captions_and_reasons_do_not_leave_their_tile() -> None:
    name = "x" * 400
    sheet = draw(name, [Group("Group", [Result(name, name), Result("", "")])], [name])
    assert sheet.width == draw("", [Group("", [Result("", "")])], []).width
    assert sheet.height < 1000


def test_the_layers_pool_the_feature_map_of_a_backbone(
    command: Command, backbone_address: str, photograph: Path
) -> None:
    with PoolClient(backbone_address) as client:
        features = client.pool(photograph, backbone="mobilenetv2")
    done = command(
        "gallery", photograph, "--backbone", "mobilenetv2", "-o", "sheet.png", "--json", "--address", backbone_address
    )
    assert (done.returncode, done.stderr) == (0, "")
    layers = {one["layer"]: one["shape"] for one in json.loads(done.stdout)["layers"]}
    assert layers["StripPool2d()"] == list(features.shape)
    assert layers["MAC2d()"] == [features.shape[0]]


async def test_the_server_pools_with_the_heads_that_fit(start_server: Callable[..., Service], tmp_path: Path) -> None:
    for name in ("netvlad", "siglip"):
        HEADS[name].write(tmp_path / "heads" / name)
    service = start_server("--heads", str(tmp_path / "heads"))
    channels, height, width = shape = HEADS["siglip"].sample
    async with AsyncPoolClient(service.address) as client:
        sample = Sample(channels, height, width, (await client.server_info()).heads)
        shown = await pool_all(client, np.ones(shape, np.float32), sample, ["pool_head"])
    fitting = [name for name in ("netvlad", "siglip") if HEADS[name].sample[0] == shape[0]]
    assert [one.caption for one in shown] == [f"PoolHead2d(name='{name}')" for name in fitting]
    assert all(one.values is not None and one.values.ndim == 1 for one in shown)
