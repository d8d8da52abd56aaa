"""Pool heads with learned weights: their values, their folders, and a server that has some."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.backbones.models import tiny_backbone
from tests.layers.head_folders import HEADS, PCA_OF_15, POOL_HEADS, SMOOTH_HEADS, HeadExample

from poolservice.specs import LAYERS
from poolservice_client import (
    GeMPool2d,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool1d,
    PoolClient,
    PoolHead2d,
    PoolSpec,
    RMAC2d,
    Sequential,
    SpatialPyramidPool2d,
    SPoC2d,
)
from poolservice_server.backbones.folder_files import BrokenFile
from poolservice_server.cache import size_of
from poolservice_server.pool_heads.folder import read_head
from poolservice_server.pool_heads.head import PoolHeads
from poolservice_server.pool_heads.kinds import KINDS
from poolservice_server.pool_heads.loading import load_pool_heads
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.torch_operators.pool_heads import FUNCTIONS
from poolservice_server.settings import SettingsError
from poolservice_server.settings.loader import load
from poolservice_server.stage_cost import stage_cost
from poolservice_server.testing import Service, serve

each_head = pytest.mark.parametrize("name", HEADS)


def samples_of(example: HeadExample, count: int = 3, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *example.sample)).astype(np.float32)


def expected(example: HeadExample, samples: np.ndarray) -> np.ndarray:
    weights = {name: weight.astype(np.float64) for name, weight in example.weights().items()}
    return np.stack([example.reference(weights, sample.astype(np.float64)) for sample in samples])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a head of each example, and two that are broken."""
    folder = tmp_path_factory.mktemp("heads")
    for name, example in HEADS.items():
        example.write(folder / name, description=f"a small {example.kind}")
    PCA_OF_15.write(folder / "pca-of-15")
    HEADS["netvlad"].write(folder / "tampered", sha256="0" * 64)
    HEADS["pca"].write(folder / "a b")
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a server with these heads, and a backbone that has a head of its own."""
    backbone = tiny_backbone(tmp_path_factory.mktemp("backbones") / "net", name="tiny")
    shapes = {"conv.weight": (4, 16, 1, 1), "centroids": (4, 16)}
    HEADS["netvlad"]._replace(shapes=shapes).write(backbone.path / "heads" / "vlad")
    with serve("--device", "cpu", "--heads", str(folder), "--backbone", str(backbone.path)) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[PoolClient]:
    with PoolClient(service.address) as client:
        yield client


def test_every_kind_has_a_function_and_an_example() -> None:
    assert KINDS.keys() == FUNCTIONS.keys() == {example.kind for example in HEADS.values()}
    documentation = LAYERS["pool_head", 2].__doc__
    assert documentation is not None
    assert all(f"- {kind}:" in documentation for kind in KINDS)


@each_head
def test_a_head_gives_the_vector_of_its_definition(client: PoolClient, name: str) -> None:
    example = HEADS[name]
    samples = samples_of(example)
    np.testing.assert_allclose(client.pool(samples, PoolHead2d(name)), expected(example, samples), 1e-5, 2e-6)


@each_head
def test_a_sample_has_the_same_bits_alone_in_a_tensor_and_among_concurrent_calls(client: PoolClient, name: str) -> None:
    samples = samples_of(HEADS[name], 16)
    together = client.pool(samples, PoolHead2d(name))
    alone = [client.pool(sample, PoolHead2d(name)) for sample in samples]
    assert np.stack(alone).tobytes() == together.tobytes()
    mapped = list(client.map(iter(samples), PoolHead2d(name)))
    assert np.stack(mapped).tobytes() == together.tobytes()


@pytest.mark.parametrize("gain", [1e-3, 1.0, 30.0])
@each_head
def test_values_of_any_size_agree_with_the_definition(name: str, gain: float, folder: Path) -> None:
    import torch

    example = HEADS[name]
    head = read_head(folder / name, name)
    samples = gain * samples_of(example, 8, seed=11)
    weights = {key: torch.from_numpy(weight) for key, weight in head.weights.items()}
    got = FUNCTIONS[head.kind](weights, head.parameters, torch.from_numpy(samples))
    reference = expected(example, samples)
    np.testing.assert_allclose(got, reference, 1e-4, 2e-5 * np.abs(reference).max())


@pytest.mark.parametrize("name", SMOOTH_HEADS)
def test_the_epsilon_of_a_head_is_that_of_its_parameters(name: str) -> None:
    example = SMOOTH_HEADS[name]
    spec = PoolHeads({name: example.load()}).resolve(PoolHead2d(name))
    samples = samples_of(example)
    got = run_on_arrays(PoolStage.of((spec,), example.sample[0]), samples.reshape(-1, *example.sample[1:]))[0].values
    np.testing.assert_allclose(got, expected(example, samples), 1e-5, 2e-6)


def test_the_server_lists_its_heads_and_why_some_do_not_serve(client: PoolClient) -> None:
    heads = {head.name: head for head in client.server_info().heads}
    assert heads.keys() == {*HEADS, "pca-of-15", "tampered", "a b", "tiny/vlad"}
    clip, pca, broken = heads["clip"], heads["pca"], heads["tampered"]
    assert (clip.kind, clip.description, clip.licence) == ("clip_attention_pool", "a small clip_attention_pool", "MIT")
    assert (clip.channels, clip.spatial_shape, clip.output_shape, clip.state) == (12, (4, 4), (5,), "SERVING")
    assert (pca.channels, pca.spatial_shape, pca.output_shape) == (9, (1, 1), (4,))
    assert heads["netvlad"].spatial_shape == ()
    assert heads["netvlad"].memory_bytes == 4 * (30 + 5 + 30)
    assert heads["netvlad"].fingerprint != heads["netvlad-plain"].fingerprint
    assert (broken.state, broken.fingerprint) == ("BROKEN", "")
    assert broken.reason.startswith("head.safetensors is tampered or truncated")
    assert "letters, digits" in heads["a b"].reason


def test_a_head_pools_the_feature_map_of_a_backbone_and_an_image(client: PoolClient, photograph: Path) -> None:
    image = photograph.read_bytes()
    features = client.pool(image, backbone="tiny")
    vector = client.pool(image, PoolHead2d("tiny/vlad"), backbone="tiny")
    assert vector.shape == (64,)
    np.testing.assert_allclose(client.pool(features, PoolHead2d("tiny/vlad")), vector, 1e-5, 1e-6)


def test_whitening_may_follow_a_layer_that_gives_vectors(client: PoolClient) -> None:
    samples = np.random.default_rng(3).standard_normal((4, 3, 8, 7)).astype(np.float32)
    pyramid = SpatialPyramidPool2d((1, 2), mode="avg")
    whitened = Sequential([pyramid, PoolHead2d("pca-of-15")])
    got = client.pool(samples, whitened)
    vectors = client.pool(samples, pyramid)
    np.testing.assert_allclose(got, expected(PCA_OF_15, vectors), 1e-5, 1e-6)
    assert client.pool(samples[1], whitened).tobytes() == got[1].tobytes()
    assert client.pool(vectors[..., None, None], PoolHead2d("pca-of-15")).tobytes() == got.tobytes()


@pytest.mark.parametrize("descriptor", [RMAC2d(), GeMPool2d(3), SPoC2d()], ids=["R-MAC", "GeM", "SPoC"])
def test_a_descriptor_is_whitened_in_one_call(client: PoolClient, descriptor: PoolSpec) -> None:
    samples = np.random.default_rng(4).uniform(0, 1, (3, 15, 9, 8)).astype(np.float32)
    descriptors = client.pool(samples, descriptor)
    whitened = client.pool(samples, Sequential([descriptor, PoolHead2d("pca-of-15")]))
    np.testing.assert_allclose(whitened, expected(PCA_OF_15, descriptors), 1e-5, 1e-6)


REFUSALS: list[tuple[PoolSpec, tuple[int, ...], str]] = [
    (PoolHead2d("netvald"), (6, 4, 3), r"there is no head netvald; this server has .*did you mean netvlad\?"),
    (PoolHead2d("tampered"), (6, 4, 3), "head tampered does not serve: head.safetensors is tampered"),
    (PoolHead2d("netvlad"), (5, 4, 3), r"head netvlad \(netvlad\) takes 6 channels; got \(5, 4, 3\)"),
    (PoolHead2d("netvlad"), (4, 3), r"PoolHead2d takes 3 dimensions .* or 4 .*; got 2 in \(4, 3\)"),
    (PoolHead2d("clip"), (12, 4, 5), "takes feature maps of 4 x 4, because it has weights for each position"),
    (PoolHead2d("mixvpr"), (7, 4, 3), "takes feature maps of 3 x 4, because it has weights for each position"),
    (PoolHead2d("salad-local"), (6, 2, 2), "takes at least 5 positions"),
    (PoolHead2d("salad"), (6, 1, 5), "takes at least 6 positions"),
    (PoolHead2d("pca"), (9, 2, 1), "takes one vector per sample: pool the map before it"),
    (Sequential([SpatialPyramidPool2d((1,)), PoolHead2d("netvlad")]), (6, 4, 3), "the layer before it gives a vector"),
    (Sequential([PoolHead2d("pca"), GlobalAvgPool2d()]), (9, 1, 1), "takes a feature map of 2 spatial dimensions"),
    (Sequential([PoolHead2d("none")]), (6, 4, 3), "there is no head none"),
]


@pytest.mark.parametrize(("spec", "shape", "reason"), REFUSALS)
def test_a_head_that_does_not_fit_is_refused_in_words(
    client: PoolClient, spec: PoolSpec, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        client.pool(np.zeros(shape, np.float32), spec)


def test_an_error_names_the_field_of_the_head(client: PoolClient) -> None:
    with pytest.raises(InvalidRequest) as alone:
        client.pool(np.zeros((6, 4, 3), np.float32), PoolHead2d("none"))
    with pytest.raises(InvalidRequest) as in_sequence:
        client.pool(np.zeros((6, 4, 3), np.float32), Sequential([GlobalAvgPool2d(), PoolHead2d("none")]))
    assert alone.value.field.endswith("name")
    assert "layers[1]" in in_sequence.value.field
    for name in ("", "a" * 130):
        with pytest.raises(InvalidRequest, match="name of a head of the server"):
            PoolHead2d(name)
    assert len(PoolHead2d("a" * 129).name) == 129


def test_a_server_without_heads_says_how_to_get_some(server_address: str) -> None:
    with (
        PoolClient(server_address) as client,
        pytest.raises(InvalidRequest, match="has no heads; start it with --head"),
    ):
        client.pool(np.zeros((6, 4, 3), np.float32), PoolHead2d("netvlad"))


def test_two_servers_in_one_process_keep_their_heads_apart(folder: Path) -> None:
    from poolservice.specs import PoolHead2d as Named
    from poolservice.specs import to_message
    from poolservice.v1 import pool_pb2
    from poolservice_server.core.plan import known_head, read_head

    tensor = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=(6, 4, 3))
    request = pool_pb2.PoolRequest(specs=[to_message(Named("a"))], tensor=tensor).SerializeToString()
    first = PoolHeads({"a": HEADS["netvlad"].load()})
    second = PoolHeads({"a": HEADS["salad-local"].load()})
    plans = [read_head(request, heads).tensor_plan for heads in (first, second)]
    assert plans[0] is not None
    assert plans[1] is not None
    assert plans[0].batch_key != plans[1].batch_key
    assert known_head(request, second) is read_head(request, second)
    with pytest.raises(InvalidRequest, match="no heads"):
        read_head(request)


def test_no_cache_counts_the_weights_of_a_head() -> None:
    assert POOL_HEADS.serving["clip"].memory_bytes > 2000
    assert size_of(POOL_HEADS.resolve(PoolHead2d("clip"))) < 1000


@pytest.mark.parametrize("name", ["netvlad", "simpool", "gated", "siglip"])
def test_the_estimate_grows_with_the_positions(name: str) -> None:
    spec = POOL_HEADS.resolve(PoolHead2d(name))
    channels = HEADS[name].sample[0]
    stage = PoolStage.of((spec,), channels)
    few, many = (stage_cost(stage, (channels, side, side), np.dtype(np.float32)) for side in (8, 256))
    assert many[0] > 2 * few[0]
    assert many[1] > 2 * few[1]


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("netvlad", {"kind": "netvlads"}, "head.toml: kind must be one of clip_attention_pool"),
    ("netvlad", {"schema": 2}, "head.toml: schema must be 1; got 2"),
    ("netvlad", {"license": "MIT"}, "head.toml: license is not a key of this file"),
    ("netvlad", {"file": "../head.safetensors"}, "must be the path of a file inside the folder"),
    ("netvlad", {"file": "other.safetensors"}, "other.safetensors is missing"),
    ("netvlad", {"parameters": {"normalise": True}}, r"\[parameters\]: normalise is not a key"),
    ("clip", {"parameters": {}}, r"\[parameters\]: num_heads is missing"),
    ("clip", {"parameters": {"num_heads": 5}}, "has 12 channels, which parameters.num_heads, 5, must divide"),
    ("mixvpr", {"parameters": {"height": 3, "width": 5, "mix_depth": 2}}, "has weights for 12 positions; .* is 15"),
    ("mixvpr", {"parameters": {"height": 3, "width": 4}}, "has the tensors mix.1.mix.0.bias, .*, which this kind"),
    ("salad", {"parameters": {"token": "last"}}, "token must be first, mean or none"),
    ("simpool-gamma", {"parameters": {"num_heads": 2}}, "has the tensors beta"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), BROKEN)
def test_a_wrong_head_toml_is_explained(name: str, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match=reason):
        read_head(HEADS[name].write(tmp_path / name, **changes), name)


@each_head
def test_every_tensor_of_a_head_must_have_its_shape(name: str, tmp_path: Path) -> None:
    example = HEADS[name]
    weights = example.weights()
    for key, weight in weights.items():
        longer = np.concatenate([weight, weight[:1]]) if weight.ndim else np.zeros(2, np.float32)
        damaged = {**weights, key: longer}
        with pytest.raises(BrokenFile, match=r"head\.safetensors must have .* of shape|must have 1 \+ side"):
            read_head(example.write(tmp_path / key.replace(".", "-"), damaged), name)


@each_head
def test_every_tensor_of_a_head_must_be_there_and_finite(name: str, tmp_path: Path) -> None:
    example = HEADS[name]
    weights = example.weights()
    optional = {"wq.bias", "wk.bias", "beta", "conv.bias"}
    for number, key in enumerate(weights):
        if key not in optional:
            fewer = {other: weight for other, weight in weights.items() if other != key}
            with pytest.raises(BrokenFile, match=f"it lacks {key}"):
                read_head(example.write(tmp_path / f"fewer-{number}", fewer), name)
        infinite = {**weights, key: np.full_like(weights[key], np.inf)}
        with pytest.raises(BrokenFile, match=f"must have only finite numbers in {key}"):
            read_head(example.write(tmp_path / f"infinite-{number}", infinite), name)


def test_a_file_that_is_no_safetensors_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = HEADS["netvlad"]
    path = example.write(tmp_path / "text", sha256=hashlib.sha256(b"text").hexdigest())
    (path / "head.safetensors").write_bytes(b"text")
    with pytest.raises(BrokenFile, match="is not a safetensors file"):
        read_head(path, "text")
    monkeypatch.setattr("poolservice_server.pool_heads.folder.MAX_BYTES", 100)
    with pytest.raises(BrokenFile, match=r"head.safetensors may have 100 bytes; it has "):
        read_head(example.write(tmp_path / "large"), "large")


def test_a_head_without_values_is_refused(tmp_path: Path) -> None:
    without_clusters = {name: weight[:0] for name, weight in HEADS["netvlad"].weights().items()}
    with pytest.raises(BrokenFile, match=r"must have conv\.weight of shape \(K, C, 1, 1\)"):
        read_head(HEADS["netvlad"].write(tmp_path / "netvlad", without_clusters), "netvlad")
    weights = HEADS["clip"].weights()
    without_positions = {**weights, "positional_embedding": weights["positional_embedding"][:1]}
    with pytest.raises(BrokenFile, match=r"must have 1 \+ side \* side positions"):
        read_head(HEADS["clip"].write(tmp_path / "clip", without_positions), "clip")


def test_weights_beyond_the_range_of_float32_are_refused(tmp_path: Path) -> None:
    weights = {name: weight.astype(np.float64) for name, weight in HEADS["netvlad"].weights().items()}
    weights["centroids"][2, 3] = 1e39
    with pytest.raises(BrokenFile, match="too large for float32 in centroids"):
        read_head(HEADS["netvlad"].write(tmp_path / "netvlad", weights), "netvlad")


def test_heads_are_equal_if_kind_parameters_and_weights_are(tmp_path: Path) -> None:
    example = HEADS["simpool"]
    same, other_name = (read_head(example.write(tmp_path / name), name) for name in ("a", "b"))
    other_weights = read_head(example.write(tmp_path / "c", example.weights(2)), "a")
    other_parameters = read_head(example.write(tmp_path / "d", parameters={"num_heads": 2}), "a")
    assert same == other_name
    assert len({same, other_name, other_weights, other_parameters}) == 3
    assert same != other_weights
    assert same != other_parameters


def test_variances_must_be_positive(tmp_path: Path) -> None:
    example = HEADS["pca"]
    weights = {**example.weights(), "variance": np.zeros(4, np.float32)}
    with pytest.raises(BrokenFile, match="only positive numbers in variance"):
        read_head(example.write(tmp_path / "pca", weights), "pca")


def test_weights_of_16_bits_are_computed_in_float32(tmp_path: Path) -> None:
    example = HEADS["netvlad"]
    halves = {name: weight.astype(np.float16) for name, weight in example.weights().items()}
    head = read_head(example.write(tmp_path / "half", halves), "half")
    assert {weight.dtype for weight in head.weights.values()} == {np.dtype(np.float32)}
    assert save(dict(head.weights)) == save({name: half.astype(np.float32) for name, half in halves.items()})


def test_a_folder_without_heads_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no subfolder with a head.toml"):
        load_pool_heads(load(["--heads", str(tmp_path)]))
    with pytest.raises(SettingsError, match="No such file or directory"):
        load_pool_heads(load(["--heads", str(tmp_path / "missing")]))


def test_a_backbone_whose_manifest_is_broken_gives_its_heads_the_name_of_its_folder(tmp_path: Path) -> None:
    HEADS["netvlad"].write(tmp_path / "net" / "heads" / "vlad")
    (tmp_path / "net" / "backbone.toml").write_text("name = 1")
    heads = load_pool_heads(load(["--backbone", str(tmp_path / "net")]))
    assert [*heads.serving] == ["net/vlad"]


def test_a_sequence_of_one_dimension_has_no_head() -> None:
    with pytest.raises(InvalidRequest, match="must pool 1 dimensions"):
        Sequential([MaxPool1d(2), PoolHead2d("a")])


@pytest.mark.parametrize("name", HEADS)
def test_two_heads_of_one_kind_keep_their_own_weights(name: str, tmp_path: Path) -> None:
    example = HEADS[name]
    sample = np.random.default_rng(3).random(example.sample, np.float32)
    vectors = []
    for seed in (1, 2):
        head = read_head(example.write(tmp_path / str(seed), example.weights(seed)), f"{name}-{seed}")
        spec = PoolHeads({head.name: head}).resolve(PoolHead2d(head.name))
        stage = PoolStage.of((spec,), example.sample[0])
        vectors.append(run_on_arrays(stage, sample)[0].values[0])
        expected = example.reference(example.weights(seed), sample.astype(np.float64))
        np.testing.assert_allclose(vectors[-1], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
