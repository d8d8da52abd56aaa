"""Requests for a backbone on a GPU that dies: the service goes on with the CPU's engine.

The GPU is a fake one, which runs the network as a GPU does but in the CPU's memory. The CPU is a real one.
"""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.backbones.models import tiny_backbone
from tests.unit.backend.conftest import FakeDevice

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.loading import load
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.engines.onnx_gpu_engine import OnnxGpuEngine
from poolservice_server.backbones.folder import read_folder
from poolservice_server.backend import Backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import Call, PoolService
from poolservice_server.stop import Stop

MEAN = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())


def png(color: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 40), (color, color, color)).save(file, "PNG")
    return file.getvalue()


async def test_every_response_is_right_while_the_gpu_dies_under_load(
    tmp_path: Path, image_threads: ThreadPoolExecutor
) -> None:
    tiny = tiny_backbone(tmp_path / "tiny")
    folder = read_folder(tiny.path, allow_code_models=False)
    cpu, gpu = CpuDevice(), FakeDevice()
    options: dict[str, Any] = {"threads": 1, "cores": 2, "allow_code_models": False, "skip_broken": False}
    backbones = load([folder], [], Backend([cpu]), **options)
    device = torch.device("cpu")
    engine = OnnxGpuEngine((tiny.path / "model.onnx").read_bytes(), device=device, input_shape=tiny.input)
    gpu.networks["tiny"] = Network(folder, engine, device, CoreBudget(1))
    backend = Backend([gpu, cpu])
    backend.add_backbone("tiny")
    run_on: set[threading.Thread] = set()

    def run(key: Any, payloads: list[Any], stop: Stop) -> Any:
        run_on.add(threading.current_thread())
        return backend.run(key, payloads, stop)

    service = PoolService(
        Batcher(run, threads=3, prepare_threads=2, inline_bytes=backend.inline_bytes),
        image_threads,
        pb.GetServerInfoResponse,
        max_message_bytes=2**26,
        max_image_pixels=2**20,
        max_queue_bytes=2**29,
        max_unread_bytes=0,
        max_request_seconds=10.0,
        seconds_per_step=1e-9,
        backbones=backbones,
        batches_backbone=backend.batches_backbone,
    )

    async def call(number: int) -> str:
        if number == 60:
            gpu.fails_every, gpu.computes_correctly = 1, False
        color = number % 250
        request = pb.PoolRequest(specs=[MEAN], backbone="tiny", image=pb.Image(data=png(color, 40 + number % 30)))
        response = pb.PoolResponse.FromString(await service.pool(Call(request.SerializeToString())))
        sample = tiny.normalized(np.full((1, 3, 32, 32), color, np.uint8))
        values = np.frombuffer(response.results[0].tensor.data, np.float32)
        np.testing.assert_allclose(values, tiny.numpy_reference(sample)["embedding"][0], rtol=1e-4, atol=1e-5)
        return response.execution.device

    async def caller(first: int) -> list[str]:
        return [await call(number) for number in range(first, 200, 8)]

    devices = await asyncio.gather(*map(caller, range(8)))
    assert {one[0] for one in devices} == {"cuda:0"}
    assert {one[-1] for one in devices} == {"cpu"}
    assert backend.devices()[0].suspended
    assert threading.current_thread() not in run_on
