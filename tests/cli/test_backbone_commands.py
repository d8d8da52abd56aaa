"""The commands with a backbone: embed, explain, and the option --backbone of the others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

NAME = "mobilenetv2"
FAILED, USAGE = 1, 2


@pytest.fixture
def backbone_command(offline: Command, backbone_address: str) -> Command:
    """Run the command as a process with the address of a server with a backbone in its environment."""

    def run(*arguments: object, **keywords: object) -> CompletedProcess[str]:
        return offline(*arguments, **{"POOLSERVICE_ADDRESS": backbone_address, **keywords})

    return run


def _succeeded(done: CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def _features(address: str, folder: Path, images: list[str]) -> np.ndarray:
    paths = [folder / path for path in images]
    with PoolClient(address) as client:
        return np.stack(list(client.map(paths, GlobalAvgPool2d(), backbone=NAME, output="features", normalize=True)))


@pytest.mark.parametrize("tap", [None, "features", "embedding"])
def test_embed_writes_a_normalized_vector_for_each_image(
    backbone_command: Command, backbone_address: str, images: list[str], tmp_path: Path, tap: str | None
) -> None:
    flags = [] if tap is None else ["--tap", tap]
    report = json.loads(
        _succeeded(backbone_command("embed", "x/*.png", "--backbone", NAME, "-o", "f.npz", "--json", *flags))
    )
    assert report["arrays"] == {"features": "(16,) float32"}
    with np.load(tmp_path / "f.npz") as file:
        assert file["paths"].tolist() == images
        # The embedding is the mean of the feature map.
        np.testing.assert_allclose(file["features"], _features(backbone_address, tmp_path, images), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(file["features"], axis=1), 1, rtol=1e-6)


def test_embed_says_that_it_replaces_a_complete_file(
    backbone_command: Command, images: list[str], tmp_path: Path
) -> None:
    arguments = ("embed", "x/*.png", "--backbone", NAME, "-o", "f.npz")
    _succeeded(backbone_command(*arguments))
    again = backbone_command("embed", images[0], *arguments[2:])
    assert again.returncode == 0
    assert again.stderr == "poolservice: f.npz exists; it is replaced when all files are done\n"
    with np.load(tmp_path / "f.npz") as file:
        assert file["paths"].tolist() == images[:1]
    _succeeded(backbone_command(*arguments, "--quiet"))


def test_embed_writes_every_format_and_reports_failures(
    backbone_command: Command, images: list[str], tmp_path: Path
) -> None:
    (tmp_path / "x" / "9.png").write_bytes(b"no image")
    arguments = ("embed", "x/*.png", "--backbone", NAME, "--failures", "failed.csv", "-o")
    done = backbone_command(*arguments, "f.npy")
    assert done.returncode == FAILED
    assert "1 of 6 files failed; failed.csv lists them" in done.stderr
    assert "5 of 6 files -> f.npy: features (16,) float32 per file" in done.stdout
    assert np.load(tmp_path / "f.npy").shape == (5, 16)
    assert (tmp_path / "f.paths.txt").read_text().splitlines() == images
    assert "x/9.png" in (tmp_path / "failed.csv").read_text()
    assert backbone_command(*arguments, "f.parquet").returncode == FAILED
    from pyarrow import parquet

    assert parquet.read_table(tmp_path / "f.parquet").column_names == ["path", "features"]


def test_an_interrupted_run_continues_with_the_same_backbone_only(
    offline: Command,
    start_server: Callable[..., Service],
    mobilenetv2: TinyBackbone,
    images: list[str],
    tmp_path: Path,
) -> None:
    other_seed = tiny_backbone(tmp_path / "retrained", name=NAME, seed=8)
    other_name = tiny_backbone(tmp_path / "other", name="other")
    first = start_server("--backbone", str(mobilenetv2.path), "--backbone", str(other_name.path)).address
    retrained = start_server("--backbone", str(other_seed.path)).address

    def embed(address: str, *flags: str, backbone: str = NAME) -> CompletedProcess[str]:
        arguments = ("embed", "x/*.png", "--backbone", backbone, "-o", "f.npz", "--json", *flags)
        return offline(*arguments, POOLSERVICE_ADDRESS=address)

    # The run cannot complete, because a folder has the name of the output; all rows are in the journal.
    (tmp_path / "f.npz").mkdir()
    assert embed(first).returncode == FAILED
    (tmp_path / "f.npz").rmdir()
    refused = embed(retrained)
    assert refused.returncode == USAGE
    assert "were made by another model or preprocessing: the fingerprint of mobilenetv2 was " in refused.stderr
    assert refused.stderr.endswith("give --restart to start over\n")
    assert f"with backbone = {NAME}, not other" in embed(first, backbone="other").stderr
    assert "with tap = features, not embedding" in embed(first, "--tap", "embedding").stderr
    assert embed(retrained, "--update").returncode == USAGE
    report = json.loads(_resumed(embed(first)))
    assert (report["done_before"], report["rows"]) == (5, 5)
    with np.load(tmp_path / "f.npz") as file:
        np.testing.assert_allclose(file["features"], _features(first, tmp_path, images), rtol=1e-5)
    # The default output by its name is the same run.
    shutil.rmtree(tmp_path / "f.npz.partial", ignore_errors=True)
    (tmp_path / "f.npz").unlink()
    (tmp_path / "f.npz").mkdir()
    assert embed(first).returncode == FAILED
    (tmp_path / "f.npz").rmdir()
    assert json.loads(_resumed(embed(first, "--tap", "features")))["done_before"] == 5


def _resumed(done: CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "poolservice: resuming: 5 of 5 files are already done\n"), done.stderr
    return done.stdout


def test_a_run_over_servers_with_different_models_stops(
    offline: Command, start_server: Callable[..., Service], mobilenetv2: TinyBackbone, tmp_path: Path, images: list[str]
) -> None:
    retrained = tiny_backbone(tmp_path / "retrained", name=NAME, seed=8)
    addresses = ",".join(start_server("--backbone", str(one.path)).address for one in (mobilenetv2, retrained))
    # More files than the calls that one server gets before the other one is connected.
    for number in range(5, 400):
        shutil.copy(tmp_path / images[0], tmp_path / "x" / f"{number:03}.png")
    done = offline("embed", "x/*.png", "--backbone", NAME, "-o", "f.npz", POOLSERVICE_ADDRESS=addresses)
    assert done.returncode == FAILED
    assert f"the server's backbone {NAME} has changed: its fingerprint was " in done.stderr
    assert "features of both cannot be compared" in done.stderr
    assert not (tmp_path / "f.npz").exists()


def test_a_run_stops_if_a_server_no_longer_has_the_backbone(
    offline: Command, backbone_address: str, server_address: str, tmp_path: Path, images: list[str]
) -> None:
    for number in range(5, 200):
        shutil.copy(tmp_path / images[0], tmp_path / "x" / f"{number:03}.png")
    # The calls are shared among two servers, one of which has no backbone.
    addresses = f"{backbone_address},{server_address}"
    done = offline("embed", "x/*.png", "--backbone", NAME, "-o", "f.npz", POOLSERVICE_ADDRESS=addresses)
    assert done.returncode == FAILED
    assert f"--backbone: there is no backbone {NAME}" in done.stderr.replace("'", "")
    assert "files failed" not in done.stderr


def test_map_writes_an_output_itself_and_pooled_outputs(
    backbone_command: Command, images: list[str], tmp_path: Path
) -> None:
    arguments = ("map", "x/*.png", "--backbone", NAME, "--quiet", "-o")
    _succeeded(backbone_command(*arguments, "maps.npy", "--tensors"))
    assert np.load(tmp_path / "maps.npy").shape == (5, 16, 8, 8)
    _succeeded(backbone_command(*arguments, "vectors.npy", "--tap", "projected", "--float16"))
    vectors = np.load(tmp_path / "vectors.npy")
    assert (vectors.shape, vectors.dtype.name) == ((5, 4), "float16")
    _succeeded(backbone_command(*arguments, "two.npz", "--op", "gap2d", "--op", "adaptive_avg2d:output_size=2"))
    with np.load(tmp_path / "two.npz") as file:
        assert file["global_avg2d"].shape == (5, 16)
        assert file["adaptive_avg2d"].shape == (5, 64)


def test_pool_prints_the_output_and_the_fingerprint(
    backbone_command: Command, backbone_address: str, photograph: Path, tmp_path: Path
) -> None:
    with PoolClient(backbone_address) as client:
        expected = client.pool(photograph, backbone=NAME, tap="embedding")
        fingerprint = client.server_info().backbones[0].fingerprint
    stdout = _succeeded(
        backbone_command("pool", photograph, "--backbone", NAME, "--tap", "embedding", "--figure", "f.png")
    )
    assert stdout.startswith("the output itself  (16,) float32  ")
    assert f"the backbone with the fingerprint {fingerprint}: preprocessed in " in stdout
    report = json.loads(
        _succeeded(backbone_command("pool", photograph, "--backbone", NAME, "--op", "gap2d", "--features", "--json"))
    )
    np.testing.assert_allclose(report["results"][0]["values"], expected, rtol=1e-4, atol=1e-6)
    assert report["execution"]["backbone_fingerprint"] == fingerprint
    assert (tmp_path / "f.png").exists()


def test_bench_measures_a_backbone(backbone_command: Command, photograph: Path) -> None:
    arguments = ("bench", "--backbone", NAME, "-c", "2", "--duration", "0.2", "--warm-up", "0", "--json")
    report = json.loads(_succeeded(backbone_command(*arguments)))
    assert report["job"]["input"] == "(3, 32, 32) float32"
    assert (report["job"]["specs"], report["job"]["backbone"]) == (["the output itself"], NAME)
    assert report["rows"][0]["calls"] > 0
    report = json.loads(_succeeded(backbone_command(*arguments, "--input", photograph, "--op", "gap2d")))
    assert report["rows"][0]["mean_ms"]["decode"] > 0
    assert report["job"]["specs"] == ["GlobalAvgPool2d()"]


def test_info_shows_the_backbones(backbone_command: Command, backbone_address: str) -> None:
    stdout = _succeeded(backbone_command("info"))
    (row,) = (line for line in stdout.splitlines() if line.startswith(NAME))
    for word in ("SERVING", "3x32x32", "features 16x8x8 (default)", "embedding 16", "onnxruntime"):
        assert word in row
    (backbone,) = json.loads(_succeeded(backbone_command("info", "--json")))["backbones"]
    assert backbone["fingerprint"] in row
    assert backbone["labels"] == ["tench", "goldfish", "brambling", "magpie", "tabby"]


def test_explain_prints_the_classes_and_draws_their_maps(
    backbone_command: Command, backbone_address: str, photograph: Path, tmp_path: Path
) -> None:
    with PoolClient(backbone_address) as client:
        explanation = client.explain(photograph, backbone=NAME, top=5, maps=False)
    arguments = ("explain", photograph, "--backbone", NAME, "--top", "2")
    lines = _succeeded(backbone_command(*arguments, "-o", "e.png")).splitlines()
    assert lines[0].split() == ["class", "index", "probability", "logit"]
    assert [line.split()[0] for line in lines[1:3]] == list(explanation.labels[:2])
    assert lines[1].split()[2] == f"{explanation.probabilities[0]:.4f}"
    assert lines[3:] == ["class activation maps -> e.png"]
    with Image.open(tmp_path / "e.png") as figure:
        pixels = np.asarray(figure.convert("RGB"))
    # Three panels in a row; the first one has the photograph's colors.
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert len(np.unique(pixels[:, : pixels.shape[1] // 3].reshape(-1, 3), axis=0)) > 5000
    report = json.loads(
        _succeeded(backbone_command(*arguments, "--class", explanation.labels[0], "--class", "MAGPIE", "--json"))
    )
    labels = [*explanation.labels[:2], *({"magpie"} - {*explanation.labels[:2]})]
    assert [one["label"] for one in report["classes"]] == labels
    assert report["figure"] is None


def test_explain_draws_a_tensor(backbone_command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((32, 32, 3)).astype(np.float32))
    arguments = ("explain", "x.npy", "--backbone", NAME, "-o", "e.svg")
    _succeeded(backbone_command(*arguments, "--layout", "HWC"))
    assert "<svg" in (tmp_path / "e.svg").read_text()
    wrong = backbone_command(*arguments)
    assert wrong.returncode == FAILED
    assert wrong.stderr.startswith("poolservice: x.npy: ")


def test_the_gallery_applies_the_layers_to_the_feature_map_of_a_backbone(
    backbone_command: Command, images: list[str], tmp_path: Path
) -> None:
    done = backbone_command("gallery", images[0], "--backbone", NAME, "--tap", "features", "-o", "sheet.png", "--json")
    layers = {one["layer"]: one for one in json.loads(_succeeded(done))["layers"]}
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert layers["GlobalAvgPool2d()"]["shape"][1:] == [1, 1]
    assert all(one["shape"] is not None or one["reason"] for one in layers.values())
