"""A GPU dies under load: the CPU's engine takes over, and every response stays right.

The service, the batcher and the backend are real, and so are both engines: torch on the GPU and onnxruntime on the CPU.
Only the GPU is a fake one, whose tensors are in the CPU's memory.
"""

import asyncio
import io
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from tests.backbones.models import TinyBackbone

from poolservice.specs import GlobalAvgPool2d, GlobalMaxPool2d, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backbones.engines.loading import load
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backend import Backend
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceFailed
from poolservice_server.backend.stacking import stack
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import Call, PoolService
from poolservice_server.pool_stage import BatchKey
from poolservice_server.pooling.interop import to_tensor
from poolservice_server.stop import Stop, never

Write = Callable[..., tuple[TinyBackbone, BackboneFolder]]

CALLS = 240
#: The GPU dies during this batch.
LAST_BATCH = 12


class DyingGpu(CpuDevice):
    """Runs batches of torch tensors until it dies."""

    name = "cuda:0"
    batches = 0
    limit = 10**9

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        self.batches += 1
        if self.batches >= self.limit:
            raise DeviceFailed("CUDA error: unspecified launch failure")
        batch = BackboneBatch(self.networks[stage.backbone], stage, payloads)
        return batch.results(batch.compute(to_tensor(stack([payload.samples for payload in payloads]))), 0.001)

    def probe(self) -> bool:
        return False


def request_of(number: int) -> tuple[pb.PoolRequest, np.ndarray]:
    """Return a request for an image of the network's size, and its samples."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    specs = [GlobalAvgPool2d(), GlobalMaxPool2d()][: 1 + number % 2]
    request = pb.PoolRequest(
        image=pb.Image(data=file.getvalue()), backbone="tiny", specs=[to_message(spec) for spec in specs]
    )
    return request, pixels.transpose(2, 0, 1)[None]


async def test_every_response_is_right_when_a_gpu_dies_under_load(write: Write) -> None:
    tiny, folder = write(engines=("onnx", "torch"), preprocessing='resize = "none"\n')
    gpu = DyingGpu()
    backend = Backend([gpu, CpuDevice()])
    backbones = load([folder], [], backend, threads=1, cores=2, allow_code_models=True, skip_broken=False)
    assert backbones.serving["tiny"].engines == ("torch on cuda:0", "onnxruntime on cpu")
    gpu.batches, gpu.limit = 0, LAST_BATCH
    ran_on: set[threading.Thread] = set()

    def run(key: BatchKey, payloads: Sequence[Any], stop: Stop) -> list[Any]:
        ran_on.add(threading.current_thread())
        return backend.run(key, payloads, stop)

    batcher = Batcher(run, max_batch_size=8, threads=3, prepare_threads=2, inline_bytes=backend.inline_bytes)
    devices: Counter[str] = Counter()

    with ThreadPoolExecutor(3) as image_threads:
        service = PoolService(
            batcher,
            image_threads,
            pb.GetServerInfoResponse,
            max_message_bytes=2**26,
            max_image_pixels=2**20,
            max_queue_bytes=2**28,
            max_unread_bytes=0,
            max_request_seconds=10.0,
            seconds_per_step=1e-9,
            backbones=backbones,
            batches_backbone=backend.batches_backbone,
        )

        async def call(number: int) -> None:
            request, samples = request_of(number)
            response = pb.PoolResponse.FromString(await service.pool(Call(request.SerializeToString())))
            features = tiny.numpy_reference(tiny.normalized(samples))["features"][0]
            for result, expected in zip(response.results, (features.mean((1, 2)), features.max((1, 2))), strict=False):
                values = np.frombuffer(result.tensor.data, "<f4")
                np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
            assert len(response.results) == 1 + number % 2
            devices[response.execution.device] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(CALLS):
                group.create_task(call(number))

    assert devices.keys() == {"cuda:0", "cpu"}
    assert devices.total() == CALLS
    assert backend.devices()[0].suspended
    assert threading.current_thread() not in ran_on
    # Calls to come are not batched, because the CPU gains nothing by that.
    assert not backend.batches_backbone("tiny")
