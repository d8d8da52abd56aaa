"""The client's container image: jobs with files of the caller."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.server.compose_project import CLIENT_IMAGE, ENGINE, Project, needs_engine, output, project

pytestmark = [pytest.mark.image, needs_engine]

USER = 23456


@pytest.fixture(scope="module")
def running() -> Iterator[Project]:
    with project("jobs") as started:
        started.start("server")
        yield started


def run_job(running: Project, folder: Path, *arguments: str) -> str:
    """Run the command as a user of this machine, with a folder of that user as its working folder."""
    return output(
        *(ENGINE, "run", "--rm", "--user", f"{USER}:{USER}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all"),
        *("--network", f"{running.name}_default", "--env", "POOLSERVICE_ADDRESS=dns:///pool:50051"),
        *("--volume", f"{folder}:/data", CLIENT_IMAGE, *arguments),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three images that belongs to the user of the job."""
    for level in (0, 51, 255):
        Image.new("RGB", (8, 6), (level, 0, 255)).save(tmp_path / f"{level}.png")
    os.chmod(tmp_path, 0o777)
    return tmp_path


def test_a_map_job_writes_a_file_of_the_caller(running: Project, folder: Path) -> None:
    run_job(running, folder, "map", "*.png", "--op", "gap2d", "--output", "features.npz", "--quiet")
    written = folder / "features.npz"
    assert (written.stat().st_uid, written.stat().st_gid) == (USER, USER)
    with np.load(written) as file:
        paths = [str(path) for path in file["paths"]]
        features = dict(zip(paths, file["features"], strict=True))
    np.testing.assert_allclose(features["51.png"], [0.2, 0.0, 1.0], rtol=1e-6)
    assert sorted(paths) == ["0.png", "255.png", "51.png"]


def test_a_compose_job_finds_the_servers_by_their_name(running: Project) -> None:
    assert "SERVING" in running.compose("run", "--rm", "-T", "client", "health")


def test_the_image_has_neither_torch_nor_pip_nor_the_server() -> None:
    script = "import importlib.util as u; print([n for n in ('torch', 'pip', 'poolservice_server') if u.find_spec(n)])"
    assert output(ENGINE, "run", "--rm", "--entrypoint", "python", CLIENT_IMAGE, "-c", script) == "[]"
