"""Reading a backbone's folder: the manifest, permissions, and the sentences about folders that cannot be used."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.backbones.folder.tiny_folder import edit, read, refusal
from tests.backbones.models import tiny_backbone

from poolservice_server.backbones.folder import BrokenFolder, read_folder


def test_a_complete_folder_is_read(tmp_path: Path) -> None:
    tiny = tiny_backbone(tmp_path / "tiny")
    folder = read_folder(tiny.path, allow_code_models=False)
    assert folder.manifest.name == "tiny"
    assert folder.labels == ("class0", "class1", "class2", "class3", "class4")
    assert folder.head
    np.testing.assert_array_equal(folder.head.weight, tiny.weights["head.weight"])
    np.testing.assert_array_equal(folder.head.bias, tiny.weights["head.bias"])
    np.testing.assert_array_equal(folder.projections["projected"].weight, tiny.weights["projected.weight"])


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing") == "there is no folder FOLDER"


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(BrokenFolder, match=r"/backbone.toml is not a folder; name the folder that has a backbone.toml"):
        read(folder / "backbone.toml")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "FOLDER/backbone.toml is missing"


def test_a_wrong_key_is_named_with_the_file(folder: Path) -> None:
    edit(folder, '"shortest"', '"crop"')
    assert refusal(folder) == (
        'FOLDER/backbone.toml: preprocessing.resize must be shortest, squash, longest or none; got "crop"'
    )


def test_a_manifest_that_is_no_toml_is_named_with_the_line(folder: Path) -> None:
    edit(folder, "schema = 1\n", "schema = 1\n\nname\n")
    assert refusal(folder).startswith("FOLDER/backbone.toml: must be TOML: Expected '='")
    assert refusal(folder).endswith("(at line 3, column 5)")


def test_no_damage_to_the_manifest_causes_another_error(folder: Path) -> None:
    content = (folder / "backbone.toml").read_bytes()
    random = np.random.default_rng(20261127)
    sentences = []
    for _ in range(300):
        damaged = bytearray(content)
        begin = int(random.integers(len(damaged)))
        damaged[begin : begin + int(random.integers(4))] = random.bytes(int(random.integers(4)))
        (folder / "backbone.toml").write_bytes(damaged)
        try:
            read(folder)
        except BrokenFolder as error:
            sentences.append(str(error))
    assert len(sentences) > 100
    assert all(sentence.startswith(f"{folder}/") and sentence.isprintable() for sentence in sentences)


def test_the_architecture_of_another_module_needs_a_permission(folder: Path) -> None:
    assert refusal(folder, allow_code_models=False) == (
        "FOLDER/backbone.toml names the code tests.backbones.models:tiny_network; allow this with --allow-code-models, "
        "but only if you trust the folder like the server's own code"
    )


def test_a_program_needs_a_permission(folder: Path) -> None:
    edit(folder, "[torch]", "[program]")
    edit(folder, '"weights.safetensors"', '"weights.pt2"')
    edit(folder, 'architecture = "tests.backbones.models:tiny_network"\narguments = { channels = 3 }', "")
    (folder / "weights.safetensors").rename(folder / "weights.pt2")
    assert read(folder).manifest.program
    assert refusal(folder, allow_code_models=False) == (
        "FOLDER/backbone.toml names a program of torch.export, which runs any code in it when it is loaded; allow this "
        "with --allow-code-models, but only if you trust the folder like the server's own code"
    )


@pytest.mark.parametrize("architecture", ["poolservice:mobilenetv2", "timm:resnet50"])
def test_the_architectures_of_known_libraries_need_no_permission(folder: Path, architecture: str) -> None:
    edit(folder, "tests.backbones.models:tiny_network", architecture)
    read_folder(folder, allow_code_models=False)


def test_a_broken_folder_has_the_name_of_its_backbone(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(BrokenFolder) as broken:
        read(folder)
    assert broken.value.name == "tiny"
    edit(folder, "schema = 1", "schema = 2")
    with pytest.raises(BrokenFolder) as broken:
        read(folder)
    assert broken.value.name == "tiny"


@pytest.mark.parametrize(("old", "new"), [('name = "tiny"', ""), ('name = "tiny"', "name = 'a b'"), ("schema", "= =")])
def test_a_folder_without_a_readable_name_has_its_own(folder: Path, old: str, new: str) -> None:
    edit(folder, old, new)
    with pytest.raises(BrokenFolder) as broken:
        read(folder)
    assert broken.value.name == "folder_of_tiny"


def test_a_missing_package_is_named_with_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refusal(folder) == (
        "backbones need safetensors; install poolservice with its backbones extra, in a clone of the repository with: "
        "pip install '.[server,backbones]'"
    )


def test_names_of_files_are_printable_in_messages(tmp_path: Path) -> None:
    with pytest.raises(BrokenFolder) as broken:
        read(tmp_path / "modèle\n\udcff")
    assert str(broken.value) == f"there is no folder {tmp_path}/modèle\\n\\udcff"
    assert broken.value.name == "modèle\\n\\udcff"
