"""PoolBatches in jobs of Ray Data."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.ray.conftest import RayService

from poolservice_client import GlobalAvgPool2d
from poolservice_client.ray import PoolBatches
from poolservice_server.testing import Service

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

EXAMPLE = Path(__file__).parents[2] / "client/examples/ray_images_to_parquet.py"


def rows(count: int) -> Any:
    """Return a dataset of arrays whose means are their numbers."""
    import ray.data

    arrays = [{"array": np.full((2, 3, 3), number, np.float32)} for number in range(count)]
    return ray.data.from_items(arrays, override_num_blocks=4)


@pytest.mark.parametrize("as_actors", [False, True], ids=["tasks", "actors"])
def test_a_job_adds_a_column(two_replicas: RayService, *, as_actors: bool) -> None:
    import ray.data

    if as_actors:
        added = rows(100).map_batches(
            PoolBatches,
            fn_constructor_args=(two_replicas.address, GlobalAvgPool2d()),
            fn_constructor_kwargs={"column": "array", "output": "features"},
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=16,
            num_cpus=0.5,
        )
    else:
        pool = PoolBatches(two_replicas.address, GlobalAvgPool2d(), column="array", output="features")
        added = rows(100).map_batches(pool, batch_size=16, num_cpus=0.5)
    assert sorted(row["features"].tolist() for row in added.take_all()) == [[n, n] for n in range(100)]


def test_a_job_waits_for_a_full_service(two_replicas: RayService, start_server: Callable[..., Service]) -> None:
    small = start_server("--max-queue-items", "2", "--caller-max-requests", "1")
    pool = PoolBatches(small.address, GlobalAvgPool2d(), column="array", output="features")
    added = rows(200).map_batches(pool, batch_size=50, num_cpus=0.5)
    assert sorted(row["features"][0] for row in added.take_all()) == list(range(200))


def test_the_example_writes_features_and_errors(
    two_replicas: RayService, ray_folder: Path, tmp_path: Path, photograph: Path
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "features"
    folder.mkdir()
    for number in range(5):
        shutil.copy(photograph, folder / f"{number}.jpg")
    (folder / "notes.txt").write_text("no image")
    arguments = [str(folder), str(output), "--address", two_replicas.address, "--workers", "1"]
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        env={**os.environ, "RAY_ADDRESS": "auto", "RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    written = {Path(row["path"]).name: row for row in pq.read_table(output).to_pylist()}
    assert len(written) == 6
    assert "not a JPEG" in written["notes.txt"]["error"]
    assert written["notes.txt"]["features"] is None
    assert all(len(written[f"{number}.jpg"]["features"]) == 3 for number in range(5))
