"""A real server with backbones: results, health, failures of a network, and refusals to start."""

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from safetensors.numpy import save
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice.specs import GlobalAvgPool2d, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service, ServiceFailed

StartServer = Callable[..., Service]

#: An image of the network's size is neither resized nor cropped.
PREPROCESSING = 'resize = "none"\n'


def request_of(pixels: np.ndarray, output: str) -> pb.PoolRequest:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    specs = [to_message(GlobalAvgPool2d())] if output == "features" else []
    return pb.PoolRequest(image=pb.Image(data=file.getvalue()), backbone="tiny", tap=output, specs=specs)


def values_of(response: pb.PoolResponse) -> np.ndarray:
    return np.frombuffer(response.results[0].tensor.data, "<f4")


@pytest.fixture
def tiny(tmp_path: Path) -> TinyBackbone:
    """A backbone that gives NaN for black images."""
    return tiny_backbone(tmp_path / "models" / "tiny", nan_below=-1.9, preprocessing=PREPROCESSING)


def test_concurrent_calls_get_their_own_features_and_a_black_image_fails_alone(
    tiny: TinyBackbone, start_server: StartServer
) -> None:
    server = start_server("--backbone-threads", "1", "--backbone", str(tiny.path))

    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)

        def call(number: int) -> None:
            output = ("features", "embedding", "projected")[number % 3]
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            if number % 10 == 0:
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Pool(request_of(np.zeros_like(pixels), output))
                assert caught.value.code() is grpc.StatusCode.INTERNAL
                assert str(caught.value.details()).startswith("the network gives NaN or infinity for this input")
                return
            response = stub.Pool(request_of(pixels, output))
            expected = tiny.numpy_reference(tiny.normalized(pixels.transpose(2, 0, 1)[None]))
            wanted = expected["features"].mean((2, 3)) if output == "features" else expected[output]
            np.testing.assert_allclose(values_of(response), wanted[0], rtol=1e-3, atol=1e-4)
            assert response.execution.device == "cpu"
            assert response.execution.backbone_microseconds > 0

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(120)))


def test_each_backbone_has_a_health_status_of_its_own(
    tiny: TinyBackbone, tmp_path: Path, start_server: StartServer
) -> None:
    broken = tiny_backbone(tmp_path / "models" / "broken", name="broken")
    (broken.path / "model.onnx").write_bytes(b"not a model")
    server = start_server("--backbone-threads", "1", "--backbones", str(tiny.path.parent), "--skip-broken-backbones")
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        statuses = {
            name: health.Check(health_pb2.HealthCheckRequest(service=name)).status
            for name in ("", "backbone/tiny", "backbone/broken")
        }
        assert statuses == {
            "": health_pb2.HealthCheckResponse.SERVING,
            "backbone/tiny": health_pb2.HealthCheckResponse.SERVING,
            "backbone/broken": health_pb2.HealthCheckResponse.NOT_SERVING,
        }
        info = {one.name: one for one in PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest()).backbones}
    assert list(info["tiny"].engines) == ["onnxruntime on cpu"]
    assert info["tiny"].memory_bytes > 0
    assert "model.onnx" in info["broken"].reason


def test_a_broken_folder_with_the_name_of_a_serving_backbone_leaves_its_health_alone(
    tiny: TinyBackbone, tmp_path: Path, start_server: StartServer
) -> None:
    broken = tiny_backbone(tmp_path / "broken", name="tiny")
    (broken.path / "model.onnx").write_bytes(b"not a model")
    flags = ("--backbone", str(tiny.path), "--backbone", str(broken.path), "--skip-broken-backbones")
    server = start_server("--backbone-threads", "1", *flags)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        response = health.Check(health_pb2.HealthCheckRequest(service="backbone/tiny"))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_a_network_that_does_not_give_its_outputs_stops_the_start(
    tiny: TinyBackbone, start_server: StartServer
) -> None:
    manifest = tiny.path / "backbone.toml"
    manifest.write_text(manifest.read_text().replace('tensor = "embedding"', 'tensor = "pool5"'))
    with pytest.raises(ServiceFailed) as caught:
        start_server("--backbone-threads", "1", "--backbone", str(tiny.path))
    last = str(caught.value).splitlines()[-1]
    assert "exit status 2" in str(caught.value)
    assert last.startswith("poolservice-server: the backbone tiny in ")
    assert "outputs.embedding needs the tensor pool5" in last


def test_workers_load_the_backbones_each(tiny: TinyBackbone, start_server: StartServer) -> None:
    server = start_server("--backbone-threads", "1", "--backbone", str(tiny.path), "--workers", "2")
    pixels = np.full((32, 32, 3), 200, np.uint8)
    seen: set[int] = set()
    while len(seen) < 2:
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = PoolServiceStub(channel)
            seen.add(stub.GetServerInfo(pb.GetServerInfoRequest()).worker)
            assert values_of(stub.Pool(request_of(pixels, "embedding"))).shape == (16,)


def test_a_backbone_in_torch_alone_needs_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text("from torch import nn\ndef convolution(): return nn.Conv2d(3, 4, 3)\n")
    weights = save({"weight": np.ones((4, 3, 3, 3), np.float32), "bias": np.zeros(4, np.float32)})
    (tmp_path / "weights.safetensors").write_bytes(weights)
    (tmp_path / "backbone.toml").write_text(
        'schema = 1\nname = "plain"\nlicence = "Apache-2.0"\nsource = "a test"\ndefault_output = "features"\n'
        '[torch]\narchitecture = "network:convolution"\nfile = "weights.safetensors"\n'
        f'sha256 = "{sha256(weights).hexdigest()}"\n'
        '[input]\nheight = 8\nwidth = 8\n[preprocessing]\nresize = "squash"\n'
        '[outputs.features]\nkind = "map"\ntensor = ""\n'
    )
    program = (
        "import sys; from poolservice_server import process; from poolservice_server.backend import choose_backend; "
        "from poolservice_server.settings import Settings; "
        "settings = Settings(backbone=['.'], allow_code_models=True); "
        "assert [*process.load_backbones(settings, choose_backend('cpu'), cores=1).serving] == ['plain']; "
        "print({'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "set()"


def test_a_server_without_backbones_imports_no_engine() -> None:
    program = (
        "import sys; from poolservice_server import process; from poolservice_server.backend import choose_backend; "
        "from poolservice_server.settings import Settings; "
        "assert process.load_backbones(Settings(), choose_backend('cpu'), cores=1).serving == {}; "
        "print({'onnx', 'onnxruntime', 'safetensors', 'timm'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "set()\n"
