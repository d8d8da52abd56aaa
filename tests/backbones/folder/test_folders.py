"""The settings about backbones, and the folders that they name."""

import os
import sys
from pathlib import Path

import pytest
from tests.backbones.models import tiny_backbone

from poolservice_server.backbones.folders import read_folders
from poolservice_server.settings import Settings, SettingsError, load


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("POOLSERVICE_")]:
        monkeypatch.delenv(name)


def refusal(*flags: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read_folders(load(flags))
    return str(refused.value)


def names(*flags: str) -> list[str]:
    folders, broken = read_folders(load(flags))
    assert not broken
    return [folder.manifest.name for folder in folders]


def test_by_default_there_are_no_backbones() -> None:
    settings = load([])
    assert (settings.backbone, settings.backbones) == (None, None)
    assert (settings.skip_broken_backbones, settings.allow_code_models, settings.backbone_threads) == (False, False, 0)
    assert read_folders(settings) == ([], [])


@pytest.mark.parametrize(
    "path", ["/models/a,b", '/models/["a', "/models/{a}", "/models/a b", "a\\b", "5", "\udcff", "x"]
)
def test_the_flag_may_be_repeated_with_any_path(path: str) -> None:
    assert load(["--backbone", path, "--backbone=/second"]).backbone == (Path(path), Path("/second"))


def test_the_environment_separates_folders_like_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_BACKBONE", os.pathsep.join(("/models/a,b", "/models/c")))
    assert load([]).backbone == (Path("/models/a,b"), Path("/models/c"))
    # As every empty variable, it counts as unset.
    monkeypatch.setenv("POOLSERVICE_BACKBONE", "")
    assert load([]).backbone is None


def test_the_settings_file_has_a_list(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('backbone = ["/models/a,b", "/models/c"]\nbackbones = "/more"\nallow_code_models = true\n')
    settings = load(["--config", str(file)])
    assert settings.backbone == (Path("/models/a,b"), Path("/models/c"))
    assert settings.backbones == Path("/more")
    assert settings.allow_code_models


def test_flags_replace_the_environment_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('backbone = ["/of-the-file"]\n')
    assert load(["--config", str(file)]).backbone == (Path("/of-the-file"),)
    monkeypatch.setenv("POOLSERVICE_BACKBONE", "/of-the-environment")
    assert load(["--config", str(file)]).backbone == (Path("/of-the-environment"),)
    assert load(["--config", str(file), "--backbone", "/of-the-flags"]).backbone == (Path("/of-the-flags"),)
    assert load(["--config", str(file), "--backbone", "none"]).backbone is None


def test_environment_variables_set_the_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_BACKBONES", "/models")
    monkeypatch.setenv("POOLSERVICE_SKIP_BROKEN_BACKBONES", "true")
    monkeypatch.setenv("POOLSERVICE_ALLOW_CODE_MODELS", "1")
    monkeypatch.setenv("POOLSERVICE_BACKBONE_THREADS", "4")
    settings = load([])
    assert settings.backbones == Path("/models")
    assert (settings.skip_broken_backbones, settings.allow_code_models, settings.backbone_threads) == (True, True, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('backbone = "/models/a"', "(--backbone, POOLSERVICE_BACKBONE): must be a list of folders, such as"),
        ("backbone = [1]", '(--backbone, POOLSERVICE_BACKBONE): must be a list of folders, such as ["/models/first", '),
        ('backbone = [""]', "(--backbone, POOLSERVICE_BACKBONE): must be a list of folders, such as"),
        ("backbones = 5", "(--backbones, POOLSERVICE_BACKBONES): must be a path; got 5"),
        ('backbone_threads = "many"', "(--backbone-threads, POOLSERVICE_BACKBONE_THREADS): must be"),
        ("backbone_threads = -1", "(--backbone-threads, POOLSERVICE_BACKBONE_THREADS): must be greater than or equal"),
        (
            'allow_code_models = "maybe"',
            "(--allow-code-models, POOLSERVICE_ALLOW_CODE_MODELS): must be true or false",
        ),
        ("backbons = []", "is not a setting; did you mean backbones?"),
    ],
)
def test_a_wrong_value_is_reported_in_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content)
    sentence = refusal("--config", str(file))
    assert words in sentence
    assert str(file) in sentence
    assert "pathlib" not in sentence


def test_an_empty_flag_is_refused() -> None:
    assert "(--backbone, POOLSERVICE_BACKBONE): must be a list of folders" in refusal("--backbone=")
    assert refusal("--backbone") == "argument --backbone: expected one argument"


def test_folders_of_both_flags_are_read_in_order(tmp_path: Path) -> None:
    for name in ("zebra", "ant", "bee"):
        tiny_backbone(tmp_path / "many" / name, name=name)
    tiny_backbone(tmp_path / "one", name="one")
    tiny_backbone(tmp_path / "two", name="a-two")
    (tmp_path / "many" / "no_backbone").mkdir()
    (tmp_path / "many" / "README.md").touch()
    flags = ("--backbone", f"{tmp_path}/two", "--backbone", f"{tmp_path}/one", "--backbones", f"{tmp_path}/many")
    assert names(*flags) == ["a-two", "one", "ant", "bee", "zebra"]


def test_a_folder_of_folders_without_a_backbone_is_refused(tmp_path: Path) -> None:
    assert refusal("--backbones", str(tmp_path)) == f"--backbones {tmp_path} has no subfolder with a backbone.toml"
    tiny_backbone(tmp_path / "tiny")
    assert refusal("--backbones", f"{tmp_path}/tiny") == (
        f"--backbones {tmp_path}/tiny has no subfolder with a backbone.toml; it has one itself, so use --backbone "
        f"{tmp_path}/tiny"
    )


def test_hidden_folders_are_skipped(tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "tiny")
    tiny_backbone(tmp_path / ".tiny-k3x_9a", name="unfinished")
    assert names("--backbones", str(tmp_path)) == ["tiny"]
    assert names("--backbone", f"{tmp_path}/.tiny-k3x_9a") == ["unfinished"]


def test_a_subfolder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "tiny")
    (tmp_path / "loop").symlink_to("loop")
    assert refusal("--backbones", str(tmp_path)).startswith(
        f"{tmp_path}/loop cannot be read: Too many levels of symbolic links (--backbone"
    )


def test_a_folder_of_folders_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert refusal("--backbones", f"{tmp_path}/missing") == (
        f"cannot read --backbones {tmp_path}/missing: No such file or directory"
    )


def test_two_backbones_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = tiny_backbone(tmp_path / "first").path, tiny_backbone(tmp_path / "second").path
    sentence = (
        f"the backbones in {first} and {second} are both named tiny; give one of them another name in its "
        "backbone.toml (--backbone, --backbones)"
    )
    assert refusal("--backbone", str(first), "--backbone", str(second)) == sentence
    assert refusal("--backbones", str(tmp_path), "--skip-broken-backbones") == sentence


def test_a_folder_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    tiny = tiny_backbone(tmp_path / "tiny").path
    (tmp_path / "link").symlink_to(tiny)
    assert refusal("--backbone", str(tiny), "--backbone", f"{tmp_path}/link") == (
        f"{tiny} and {tmp_path}/link are the same folder; name it once (--backbone, --backbones)"
    )


def test_a_broken_backbone_is_refused_in_one_sentence(tmp_path: Path) -> None:
    tiny = tiny_backbone(tmp_path / "tiny").path
    (tiny / "model.onnx").unlink()
    assert refusal("--backbone", str(tiny)) == (
        f"{tiny}/model.onnx is missing (--backbone, --backbones; --skip-broken-backbones starts the server without the "
        "backbone)"
    )


def test_broken_backbones_can_be_skipped(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        tiny_backbone(tmp_path / name, name=f"{name}-model")
    (tmp_path / "first" / "model.onnx").unlink()
    (tmp_path / "third" / "backbone.toml").write_text("=")
    folders, broken = read_folders(load(["--backbones", str(tmp_path), "--skip-broken-backbones"]))
    assert [folder.manifest.name for folder in folders] == ["second-model"]
    assert [one.name for one in broken] == ["first-model", "third"]
    assert broken[0].reason == "model.onnx is missing"
    assert broken[1].reason == "backbone.toml: must be TOML: Invalid statement (at line 1, column 1)"


def test_a_folder_of_backbones_suggests_the_other_flag(tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "models" / "tiny")
    assert refusal("--backbone", f"{tmp_path}/models").startswith(
        f"{tmp_path}/models/backbone.toml is missing; did you mean --backbones {tmp_path}/models? (--backbone"
    )
    assert "did you mean" not in refusal("--backbone", f"{tmp_path}/missing")


def test_a_missing_folder_can_be_skipped(tmp_path: Path) -> None:
    folders, broken = read_folders(load(["--backbone", f"{tmp_path}/gone", "--skip-broken-backbones"]))
    assert folders == []
    assert broken == [("gone", "the folder is missing")]


def test_code_needs_the_flag(tmp_path: Path) -> None:
    tiny = tiny_backbone(tmp_path / "tiny", engines=("torch",)).path
    assert "allow this with --allow-code-models" in refusal("--backbone", str(tiny))
    assert names("--backbone", str(tiny), "--allow-code-models") == ["tiny"]


@pytest.mark.parametrize("flags", [(), ("--skip-broken-backbones",)])
def test_missing_packages_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refusal("--backbone", str(tmp_path), *flags) == (
        "backbones need onnxruntime, safetensors; install poolservice with its backbones extra, in a clone of the "
        "repository with: pip install '.[server,backbones]' (--backbone, --backbones)"
    )
    assert read_folders(load([])) == ([], [])


def test_every_setting_about_backbones_is_documented() -> None:
    document = (Path(__file__).parents[3] / "server" / "BACKBONES.md").read_text()
    found = [name for name in Settings.model_fields if "backbone" in name or name == "allow_code_models"]
    assert len(found) == 5
    for name in found:
        assert f"`--{name.replace('_', '-')}" in document
