"""The classification head, its labels, and the projections of a backbone's folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from tests.backbones.folder.tiny_folder import edit, read, refusal, replace_file
from tests.backbones.models import tiny_backbone

from poolservice_server.backbones.folder import read_folder


def test_without_a_file_of_labels_the_classes_are_numbered(folder: Path) -> None:
    edit(folder, 'labels = "labels.txt"\n', "")
    assert read(folder).labels == ("0", "1", "2", "3", "4")


def test_without_a_head_there_are_no_labels(tmp_path: Path) -> None:
    folder = read(tiny_backbone(tmp_path / "tiny", classes=0).path)
    assert folder.head is None
    assert folder.labels == ()


@pytest.mark.parametrize("content", ["a\nb\nc\nd\né f", "a\r\nb\r\nc\r\nd\r\né f\r\n\r\n", "\ufeffa\nb\nc\nd\né f\n"])
def test_labels_may_have_any_line_ends(folder: Path, content: str) -> None:
    (folder / "labels.txt").write_bytes(content.encode())
    assert read(folder).labels == ("a", "b", "c", "d", "é f")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\nb\nc\nd\n", "must have 5 lines, one for each class of head.safetensors; it has 4"),
        ("a\nb\nc\nd\ne\nf\n", "must have 5 lines, one for each class of head.safetensors; it has 6"),
        ("a\n\nc\nd\ne\n", "must have a name of 1 to 500 printable characters on each line; line 2 has none"),
        ("a\nb\n\x1b[31mc\nd\ne\n", "must have a name of 1 to 500 printable characters on each line; line 3 has none"),
        (
            f"a\nb\nc\nd\n{'e' * 501}\n",
            "must have a name of 1 to 500 printable characters on each line; line 5 has none",
        ),
    ],
)
def test_wrong_labels_are_refused(folder: Path, content: str, words: str) -> None:
    (folder / "labels.txt").write_text(content)
    assert refusal(folder) == f"FOLDER/labels.txt {words}"


def test_labels_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "labels.txt").write_bytes(b"a\nb\nc\nd\n\xff\n")
    assert refusal(folder) == "FOLDER/labels.txt must be UTF-8 text"


ONES = np.ones((5, 16), np.float32)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"kernel": ONES}, "must have the tensors weight and may have bias; it has kernel"),
        ({"weight": ONES, "scale": ONES}, "must have the tensors weight and may have bias; it has scale, weight"),
        ({}, "must have the tensors weight and may have bias; it has none"),
        ({"weight": ONES[0]}, "must have a matrix (D, C) in weight; its shape is (16,)"),
        ({"weight": ONES[:, :, None, None]}, "must have a matrix (D, C) in weight; its shape is (5, 16, 1, 1)"),
        ({"weight": ONES[:0]}, "must have a matrix (D, C) in weight; its shape is (0, 16)"),
        ({"weight": ONES, "bias": ONES[0]}, "must have 5 numbers in bias; its shape is (16,)"),
        ({"weight": ONES.astype(np.int64)}, "must have tensors of F16, F32 or F64; weight is int64"),
        ({"weight": ONES * np.nan}, "must have only finite numbers in weight"),
        ({"weight": ONES, "bias": ONES[:, 0] * np.inf}, "must have only finite numbers in bias"),
        ({"weight": ONES.astype(np.float64) * 1e200}, "has values that are too large for float32"),
    ],
)
def test_a_wrong_head_is_refused(folder: Path, tensors: Mapping[str, np.ndarray], words: str) -> None:
    replace_file(folder, "head.safetensors", save({name: np.ascontiguousarray(one) for name, one in tensors.items()}))
    assert refusal(folder) == f"FOLDER/head.safetensors {words}"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mean", None, "must have the tensors mean, components, variance; it has components, variance"),
        ("mean", ONES[0, :3], "must have 16 numbers in mean; its shape is (3,)"),
        ("components", ONES[0], "must have a matrix (D, C) in components; its shape is (16,)"),
        ("variance", ONES[0], "must have 4 numbers in variance; its shape is (16,)"),
        ("variance", ONES[0, :4] * 0, "must have only positive numbers in variance"),
        ("variance", -ONES[0, :4], "must have only positive numbers in variance"),
        ("variance", ONES[0, :4].astype(np.float64) * 1e-300, "has values that are too large for float32"),
    ],
)
def test_a_wrong_pca_whitening_is_refused(folder: Path, name: str, value: np.ndarray | None, words: str) -> None:
    tensors = {"mean": ONES[0], "components": ONES[:4], "variance": ONES[0, :4]}
    tensors = {key: tensor for key, tensor in tensors.items() if key != name or value is not None}
    replace_file(folder, "whitened.safetensors", save(tensors if value is None else {**tensors, name: value}))
    assert refusal(folder) == f"FOLDER/whitened.safetensors {words}"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not safetensors", b"\xff" * 8 + b"{}"])
def test_a_head_that_is_no_safetensors_file_is_refused(folder: Path, content: bytes) -> None:
    replace_file(folder, "head.safetensors", content)
    assert refusal(folder).startswith("FOLDER/head.safetensors is not a safetensors file (")


def test_a_bfloat16_head_is_refused_with_what_to_write(folder: Path) -> None:
    header = b'{"weight":{"dtype":"BF16","shape":[5,2],"data_offsets":[0,20]}}'
    replace_file(folder, "head.safetensors", len(header).to_bytes(8, "little") + header + bytes(20))
    assert refusal(folder) == "FOLDER/head.safetensors must have tensors of F16, F32 or F64; one is BF16"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_heads_of_other_precisions_are_converted(folder: Path, dtype: type[np.floating]) -> None:
    replace_file(folder, "head.safetensors", save({"weight": ONES.astype(dtype)}))
    head = read(folder).head
    assert head
    assert head.weight.dtype == np.float32
    np.testing.assert_array_equal(head.weight, ONES)
    np.testing.assert_array_equal(head.bias, np.zeros(5, np.float32))


def test_pca_whitening_is_a_linear_map(tmp_path: Path) -> None:
    tiny = tiny_backbone(tmp_path / "tiny")
    whitened = read_folder(tiny.path, allow_code_models=False).projections["whitened"]
    samples = np.random.default_rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32)
    outputs = tiny.numpy_reference(samples)
    assert whitened.weight.dtype == whitened.bias.dtype == np.float32
    found = outputs["embedding"] @ whitened.weight.T + whitened.bias
    np.testing.assert_allclose(found, outputs["whitened"], rtol=1e-5, atol=1e-6)
