"""`backbone list`."""

from pathlib import Path

from tests.backbones.importing.conftest import Command
from tests.backbones.models import tiny_backbone


def test_the_backbones_of_a_folder_are_listed(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "one", name="first", classes=3)
    tiny_backbone(tmp_path / "two", name="second", classes=0, input=(1, 32, 48))
    (tmp_path / "notes").mkdir()
    done = backbone("list", tmp_path)
    assert (done.status, done.stderr) == (0, "")
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["name", "input", "outputs", "classes", "MB", "fingerprint", "state"]
    assert first.startswith("first   32x32 RGB   features (map), embedding (vector)")
    assert first.endswith("complete: onnx")
    assert second.startswith("second  32x48 GRAY  ")
    assert len(backbone("list", tmp_path / "one").stdout.splitlines()) == 2


def test_a_broken_backbone_is_listed_with_its_reason(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "good", name="good")
    tiny_backbone(tmp_path / "tampered", name="tampered")
    with (tmp_path / "tampered" / "model.onnx").open("ab") as model:
        model.write(b"more")
    done = backbone("list", tmp_path)
    assert done.status == 1
    good, tampered = done.stdout.splitlines()[1:]
    assert good.endswith("complete: onnx")
    assert "tampered or truncated" in tampered


def test_a_folder_without_backbones(backbone: Command, tmp_path: Path) -> None:
    done = backbone("list", tmp_path)
    assert (done.status, done.error.endswith("make one with: backbone import")) == (2, True)
    done = backbone("list", tmp_path / "missing")
    assert (done.status, done.error) == (2, f"{tmp_path / 'missing'}: there is no such folder")


def test_hidden_folders_are_not_listed(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "one", name="first")
    tiny_backbone(tmp_path / ".one-k3x_9a", name="unfinished")
    _, *listed = backbone("list", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["first"]
