"""`poolservice-server backbone import-head`: heads from checkpoints with the names of their authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.layers.head_folders import HEADS

from poolservice_server.backbones.command.app import main
from poolservice_server.pool_heads.folder import read_head

FLAGS = ("--licence", "MIT", "--source", "random numbers")

#: The names of the tensors of heads in checkpoints of whole networks begin with these.
PREFIXES = {
    "clip": "visual.attnpool.",
    "siglip": "vision_model.head.",
    "simpool-gamma": "simpool.",
    "gated": "",
    "netvlad": "pool.",
    "mixvpr": "aggregator.",
    "salad": "aggregator.",
    "pca": "",
}


def parameters_of(name: str) -> list[str]:
    given = HEADS[name].parameters.items()
    return [part for key, value in given for part in ("--parameter", f"{key}={str(value).lower()}")]


@pytest.mark.parametrize("name", PREFIXES)
def test_a_head_is_found_among_the_tensors_of_a_network(name: str, tmp_path: Path) -> None:
    example, prefix = HEADS[name], PREFIXES[name]
    tensors = {prefix + key: weight for key, weight in example.weights().items()}
    if prefix:
        tensors["backbone.conv.weight"] = np.zeros((2, 3), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    arguments = ["import-head", f"{tmp_path}/model.safetensors", "-o", f"{tmp_path}/made", "--kind", example.kind]
    assert main([*arguments, *FLAGS, *parameters_of(name)]) == 0
    head = read_head(tmp_path / "made", "made")
    assert (head.licence, head.source) == ("MIT", "random numbers")
    assert head.weights.keys() == example.weights().keys()
    assert all((head.weights[key] == weight).all() for key, weight in example.weights().items())
    assert head.parameters == example.load().parameters


def test_a_head_is_found_in_a_checkpoint_of_torch(tmp_path: Path) -> None:
    weights = HEADS["netvlad"].weights()
    torch.save(
        {"epoch": 3, "state_dict": {f"pool.{key}": torch.from_numpy(weight) for key, weight in weights.items()}},
        tmp_path / "model.ckpt",
    )
    arguments = ["import-head", f"{tmp_path}/model.ckpt", "-o", f"{tmp_path}/made", "--kind", "netvlad"]
    assert main([*arguments, *FLAGS]) == 0
    assert read_head(tmp_path / "made", "made").fingerprint == HEADS["netvlad"].load().fingerprint


def test_a_siglip_head_of_timm_is_renamed(tmp_path: Path) -> None:
    weights = HEADS["siglip"].weights()
    renamed = {
        "latent": weights["probe"],
        "q.weight": weights["attention.in_proj_weight"][:8],
        "kv.weight": weights["attention.in_proj_weight"][8:],
        "q.bias": weights["attention.in_proj_bias"][:8],
        "kv.bias": weights["attention.in_proj_bias"][8:],
        "proj.weight": weights["attention.out_proj.weight"],
        "proj.bias": weights["attention.out_proj.bias"],
        "norm.weight": weights["layernorm.weight"],
        "norm.bias": weights["layernorm.bias"],
        **{key: weight for key, weight in weights.items() if key.startswith("mlp.")},
    }
    prefixed = {f"visual.trunk.attn_pool.{key}": np.ascontiguousarray(weight) for key, weight in renamed.items()}
    save_file(prefixed, tmp_path / "model.safetensors")
    arguments = ["import-head", f"{tmp_path}/model.safetensors", "-o", f"{tmp_path}/made", "--kind", "siglip_map"]
    assert main([*arguments, *FLAGS, "--parameter", "num_heads=2", "--parameter", "activation=gelu"]) == 0
    made = load_file(tmp_path / "made" / "head.safetensors")
    assert made.keys() == weights.keys()
    assert all((made[key] == weight).all() for key, weight in weights.items())
    assert read_head(tmp_path / "made", "made").parameters.activation == "gelu"


@pytest.mark.parametrize(
    ("name", "kind", "further", "reason"),
    [
        ("mixvpr", "mixvpr", ["--parameter", "height=3", "--parameter", "width=4"], "has the tensors mix.1.mix.0.bias"),
        ("netvlad", "salad", ["--parameter", "token=mean"], "has no salad: it lacks one of cluster_features.0.bias"),
        ("netvlad", "netvlads", [], "--kind must be one of clip_attention_pool"),
        ("clip", "clip_attention_pool", [], "--parameter: num_heads is missing"),
        ("clip", "clip_attention_pool", ["--parameter", "num_heads"], "--parameter must be NAME=VALUE"),
        ("clip", "clip_attention_pool", ["--parameter", "num_heads=5"], "parameters.num_heads, 5, must divide"),
        ("netvlad", "netvlad", ["--prefix", "pool."], "behind the prefix pool."),
    ],
)
def test_a_wrong_import_is_explained_and_leaves_no_folder(
    name: str, kind: str, further: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(HEADS[name].weights(), tmp_path / "model.safetensors")
    arguments = ["import-head", f"{tmp_path}/model.safetensors", "-o", f"{tmp_path}/made", "--kind", kind]
    assert main([*arguments, *FLAGS, *further]) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_of_several_heads_the_prefix_chooses_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = HEADS["netvlad"]
    two = {
        f"{prefix}{key}": weight
        for seed, prefix in enumerate(("first.", "second."))
        for key, weight in example.weights(seed).items()
    }
    save_file(two, tmp_path / "model.safetensors")
    arguments = ["import-head", f"{tmp_path}/model.safetensors", "-o", f"{tmp_path}/made", "--kind", "netvlad", *FLAGS]
    assert main(arguments) == 2
    assert "choose one with --prefix first. or second." in capsys.readouterr().err
    assert main([*arguments, "--prefix", "second."]) == 0
    assert (read_head(tmp_path / "made", "made").weights["centroids"] == example.weights(1)["centroids"]).all()
