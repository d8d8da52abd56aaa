"""The files of a backbone's folder: opened inside the folder only, and compared with their hashes."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backbones.folder.tiny_folder import edit, read, refusal

from poolservice_server.backbones.folder import BrokenFolder


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "backbone.toml").unlink()
    (folder / "backbone.toml").mkdir()
    assert refusal(folder) == "FOLDER/backbone.toml must be a file"


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(folder: Path) -> None:
    name = "m" * 300 + ".onnx"
    edit(folder, "model.onnx", name)
    assert refusal(folder) == f"FOLDER/{name} cannot be read: File name too long"


def test_a_pipe_is_refused_without_waiting_for_it(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert stat.S_ISFIFO((folder / "model.onnx").stat().st_mode)
    assert refusal(folder) == "FOLDER/model.onnx must be a file"


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    os.truncate(folder / "backbone.toml", 2**40)
    assert refusal(folder) == "FOLDER/backbone.toml must have at most 1048576 bytes"


def test_huge_labels_are_not_read(folder: Path) -> None:
    os.truncate(folder / "labels.txt", 2**40)
    assert refusal(folder) == "FOLDER/labels.txt must have at most 1048576 bytes"


FILES = ["model.onnx", "weights.safetensors", "head.safetensors", "projected.safetensors", "whitened.safetensors"]


@pytest.mark.parametrize("name", [*FILES, "labels.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"FOLDER/{name} is missing"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:]])
def test_a_file_with_another_hash_is_refused(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    content = (folder / name).read_bytes()
    damaged = damage(content)
    (folder / name).write_bytes(damaged)
    assert refusal(folder) == (
        f"FOLDER/{name} is tampered or truncated, or is another file: its sha256 is "
        f"{hashlib.sha256(damaged).hexdigest()}, but backbone.toml says {hashlib.sha256(content).hexdigest()}"
    )


@pytest.mark.parametrize("name", ["model.onnx", "head.safetensors"])
def test_a_pointer_of_git_lfs_is_recognized(folder: Path, name: str) -> None:
    (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n")
    assert refusal(folder) == f"FOLDER/{name} is only a pointer of Git LFS to the file; fetch it with: git lfs pull"


def test_external_data_is_verified(folder: Path) -> None:
    content = b"tensors of the model"
    (folder / "model.data").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, "[onnx]\n", f'[onnx]\nexternal_data = [{{ file = "model.data", sha256 = "{digest}" }}]\n')
    read(folder)
    (folder / "model.data").write_bytes(content[1:])
    assert refusal(folder).startswith("FOLDER/model.data is tampered or truncated")


@pytest.mark.parametrize("name", ["backbone.toml", "model.onnx", "head.safetensors", "labels.txt"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    outside = folder.parent / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    assert refusal(folder) == (
        f"FOLDER/{name} is a link that leads out of the folder; copy the file into the folder instead"
    )


def test_a_file_in_a_linked_folder_outside_is_refused(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "model.onnx").rename(folder.parent / "elsewhere" / "model.onnx")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")
    edit(folder, '"model.onnx"', '"sub/model.onnx"')
    assert "FOLDER/sub/model.onnx is a link that leads out of the folder" in refusal(folder)


def test_a_link_that_leads_to_itself_is_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")
    assert refusal(folder) == "FOLDER/model.onnx cannot be read: Too many levels of symbolic links"


def test_links_within_the_folder_and_to_the_folder_are_followed(folder: Path) -> None:
    # Kubernetes mounts a volume in this way.
    (folder / "..data").mkdir()
    for name in ("backbone.toml", "model.onnx"):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert read(link).manifest.name == "tiny"


def test_an_engine_gets_the_bytes_whose_hash_was_compared(folder: Path) -> None:
    backbone = read(folder)
    assert backbone.manifest.onnx
    content = (folder / "model.onnx").read_bytes()
    assert backbone.read(backbone.manifest.onnx) == content
    (folder / "model.onnx").write_bytes(content[:-1])
    with pytest.raises(BrokenFolder, match=r"model\.onnx is tampered or truncated") as broken:
        backbone.read(backbone.manifest.onnx)
    assert broken.value.name == "tiny"
