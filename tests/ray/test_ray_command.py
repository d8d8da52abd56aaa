"""`poolservice-server ray`, and the file that deploys the same on a cluster."""

import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from tests.ray.conftest import wait_until

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import GlobalAvgPool2d, PoolClient, PoolError
from poolservice_server import testing
from poolservice_server.listen_check import reserve

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

DEPLOYMENT_FILE = Path(__file__).parents[2] / "server/deploy/ray/serve.yaml"

START_SECONDS = 110.0
# Fewer than the flow control of a stream lets in.
REQUESTS = 16


def free_port() -> int:
    with reserve("127.0.0.1:0") as address:
        return int(address.rpartition(":")[2])


@pytest.fixture
def own_ray(ray_folder: Path) -> dict[str, str]:
    """Return the environment of a Ray that is not that of the other tests."""
    folder = ray_folder / "own"
    folder.mkdir(exist_ok=True)
    return {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}


def slow_request() -> pb.PoolRequest:
    """Return a request that takes about a tenth of a second."""
    x = np.ones((1, 256, 256), np.float32)
    spec = pb.PoolSpec(spatial_dims=2, lp_pool=pb.LpPool(norm_type=3.5, kernel_size=[9], stride=[1]))
    return pb.PoolRequest(specs=[spec], tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes()))


def test_the_command_serves_and_finishes_accepted_requests_before_it_ends(
    own_ray: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "START_SECONDS", START_SECONDS)
    messages: queue.SimpleQueue[pb.PoolStreamRequest | None] = queue.SimpleQueue()
    for number in range(REQUESTS):
        messages.put(pb.PoolStreamRequest(correlation_id=number, request=slow_request()))
    command = (sys.executable, "-m", "poolservice_server", "ray")
    with (
        testing.serve(
            "--device", "cpu", "--replicas", "2", "--replica-cpus", "0.5", command=command, env=own_ray
        ) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        assert "with 2 replicas" in service.ready_line
        responses = PoolServiceStub(channel).PoolStream(iter(messages.get, None))
        first = next(responses)
        service.process.send_signal(signal.SIGTERM)
        messages.put(None)
        outcomes = [first, *responses]
        assert service.process.wait(testing.STOP_SECONDS) == 0
    assert sorted(outcome.correlation_id for outcome in outcomes) == list(range(REQUESTS))
    assert [outcome.status.code for outcome in outcomes] == [0] * REQUESTS


def test_more_gpus_than_the_machine_has_are_refused(own_ray: dict[str, str]) -> None:
    command = [sys.executable, "-m", "poolservice_server", "ray", "--address", "127.0.0.1:0", "--replica-gpus", "64"]
    done = subprocess.run(command, env={**os.environ, **own_ray}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "1 replicas with 64 GPUs each need 64 (--replicas, --replica-gpus)" in done.stderr


def deployment(grpc_port: int) -> dict[str, Any]:
    """Return the deployment file, for one small replica and on free ports."""
    loaded: dict[str, Any] = yaml.safe_load(DEPLOYMENT_FILE.read_text())
    loaded["grpc_options"]["port"] = grpc_port
    loaded["http_options"]["port"] = free_port()
    (replicas,) = loaded["applications"][0]["deployments"]
    replicas["autoscaling_config"]["min_replicas"] = 1
    replicas["ray_actor_options"]["num_cpus"] = 1
    loaded["applications"][0]["args"]["device"] = "cpu"
    return loaded


def test_the_deployment_file_has_the_schema_of_serve() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load(DEPLOYMENT_FILE.read_text()))
    (application,) = schema.applications
    assert application.import_path == "poolservice_server.ray.application:build"
    assert [function.rpartition(".")[2] for function in schema.grpc_options.grpc_servicer_functions] == [
        "add_pool_service",
        "add_health",
    ]


def is_healthy(client: PoolClient) -> bool:
    try:
        return bool(client.health())
    except PoolError:
        return False


def test_serve_deploys_the_file(own_ray: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(deployment(port)))
    serve = Path(sys.executable).with_name("serve")
    with subprocess.Popen(
        [serve, "run", str(file)], env={**os.environ, **own_ray}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with PoolClient(f"localhost:{port}") as client:
                wait_until(lambda: is_healthy(client))
                means = client.pool(np.full((2, 3, 3), 7, np.float32), GlobalAvgPool2d(), output="features")
            assert means.tolist() == [7, 7]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(testing.STOP_SECONDS)
