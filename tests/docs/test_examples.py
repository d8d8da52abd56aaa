"""The programs in client/examples run with their defaults, and their parts do what their docstrings say."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"

Message = dict[str, Any]


@pytest.fixture
def load_example(
    readers_folder: Path, readers_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ModuleType]:
    """Return a function that imports an example in the reader's folder."""
    monkeypatch.chdir(readers_folder)
    for name in os.environ.keys() - readers_environment.keys():
        monkeypatch.delenv(name)
    for name, value in readers_environment.items():
        monkeypatch.setenv(name, value)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


# tests/ray runs the example that needs Ray.
@pytest.mark.parametrize(
    "path",
    sorted(path for path in EXAMPLES.glob("*.py") if not path.stem.startswith("ray_")),
    ids=lambda path: path.stem,
)
def test_an_example_runs_with_its_defaults(
    path: Path, readers_folder: Path, readers_environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, path],
        cwd=readers_folder,
        env=readers_environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["similar_images", "--backbone", "resnet"], "backbone: there is no backbone resnet"),
        (["similar_images", "broken"], "none of the images in broken can be read"),
        (["similar_images", "photos", "missing.jpg"], "missing.jpg"),
        (["linear_probe", "--backbone", "resnet"], "backbone: there is no backbone resnet"),
        (["linear_probe", "labeled"], "broken.jpg"),
        (["linear_probe", "missing"], "missing"),
        (["folder_to_features", "broken"], "broken.jpg"),
        (["one_call", "missing.jpg"], "missing.jpg"),
        (["torch_dataloader", "--backbone", "resnet"], "backbone: there is no backbone resnet"),
        (["torch_dataloader", "missing.jpg"], "missing.jpg"),
    ],
    ids=str,
)
def test_an_example_that_fails_prints_one_sentence(
    arguments: list[str], sentence: str, readers_folder: Path, readers_environment: dict[str, str]
) -> None:
    for folder in ("broken", "labeled/cats", "labeled/dogs"):
        (readers_folder / folder).mkdir(parents=True)
        for number in range(4):
            (readers_folder / folder / f"{number}-broken.jpg").write_bytes(b"no image")
    name, *rest = arguments
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *rest],
        cwd=readers_folder,
        env=readers_environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_folder_to_features_writes_normalized_rows(
    load_example: Callable[[str], ModuleType], readers_folder: Path
) -> None:
    load_example("folder_to_features").main("photos", "out.npz")
    with np.load(readers_folder / "out.npz") as arrays:
        assert arrays["paths"].tolist() == ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg"]
        np.testing.assert_allclose(np.linalg.norm(arrays["features"], axis=1), 1, rtol=1e-6)


def test_the_dataset_returns_batches(load_example: Callable[[str], ModuleType]) -> None:
    dataset = load_example("torch_dataloader").FeatureDataset(["photo.jpg", "photos/0.jpg", "photos/1.jpg"])
    assert len(dataset) == 3
    first, second = dataset.__getitems__([0, 2])
    assert isinstance(first, torch.Tensor)
    assert torch.equal(dataset[1], second)


def test_the_dataset_has_features_of_a_backbone(load_example: Callable[[str], ModuleType]) -> None:
    dataset = load_example("torch_dataloader").FeatureDataset(["photo.jpg", "photos/0.jpg"], "mobilenetv2")
    assert [tuple(vector.shape) for vector in dataset.__getitems__([0, 1])] == [(16,), (16,)]


def test_similar_images_are_found_and_drawn(
    load_example: Callable[[str], ModuleType], readers_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, color in (("red", (250, 10, 10)), ("dark", (5, 5, 20)), ("reddish", (220, 30, 20))):
        Image.new("RGB", (64, 48), color).save(readers_folder / "photos" / f"{name}.jpg")
    (readers_folder / "photos" / "broken.jpg").write_bytes(b"no image")
    load_example("similar_images").main("photos", "photos/red.jpg", None, 2, "nearest.png")
    stdout, stderr = capsys.readouterr()
    lines = stdout.splitlines()
    assert lines[0] == "6 images by mobilenetv2; the nearest to photos/red.jpg:"
    assert [line.split()[1] for line in lines[1:]] == ["photos/red.jpg", "photos/reddish.jpg"]
    assert stderr == "photos/broken.jpg cannot be read\n"
    with Image.open(readers_folder / "nearest.png") as figure:
        assert figure.width > 2 * figure.height


def test_the_linear_probe_separates_two_classes(
    load_example: Callable[[str], ModuleType], readers_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load_example("linear_probe")
    (readers_folder / "labeled").mkdir()
    example.draw_examples(readers_folder / "labeled", count=8)
    dataset = example.read_folder(readers_folder / "labeled")
    assert (dataset.classes, dataset.labels.tolist()) == (["bright", "dark"], [0] * 8 + [1] * 8)
    example.main("labeled", "mobilenetv2")
    assert capsys.readouterr().out == "2 classes, 16 images: accuracy 100.0% on 4 images\n"
    with pytest.raises(SystemExit, match="needs a folder of images for each of at least two classes"):
        example.main("photos", None)


def test_the_asgi_application_responds(load_example: Callable[[str], ModuleType]) -> None:
    image = Path("photo.jpg").read_bytes()
    asyncio.run(
        _use_application(load_example("asgi_service").app, [image[: len(image) // 2], image[len(image) // 2 :]])
    )


async def _use_application(app: Any, halves: list[bytes]) -> None:
    """Start the application, send requests and stop it, as an ASGI server does."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
    to_app.put_nowait({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    status, content = await _post(app, halves)
    assert status == 200
    assert sum(value**2 for value in content["features"]) == pytest.approx(1)
    status, content = await _post(app, halves[:1])
    assert status == 400
    assert "JPEG" in content["error"]
    # A caller who disconnects gets no response.
    assert await _send_to(app, [{"type": "http.disconnect"}]) == []
    to_app.put_nowait({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


async def _post(app: Any, parts: list[bytes]) -> tuple[int, Message]:
    """Post a body in parts and return the status and the content of the response."""
    start, body = await _send_to(
        app,
        [{"type": "http.request", "body": part, "more_body": n < len(parts)} for n, part in enumerate(parts, 1)],
    )
    return start["status"], json.loads(body["body"])


async def _send_to(app: Any, messages: list[Message]) -> list[Message]:
    """Send one HTTP request and return the application's messages."""
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/"}, receive, send)
    return sent
