"""Requests for a backbone with a real engine on the CPU: features, classes and failures equal those of the network."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice import codec
from poolservice.specs import GlobalAvgPool2d, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server import images
from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backbones.engines.loading import load
from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.preprocessing import to_samples
from poolservice_server.backend import Backend, choose_backend
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import Call, PoolService

SIZES = ((40, 30), (33, 50), (36, 36), (64, 48))


def jpeg(width: int, height: int, color: int | None = None) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = (
        Image.fromarray(pixels).resize((width, height))
        if color is None
        else Image.new("RGB", (width, height), (color,) * 3)
    )
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


class Served:
    """A service with one tiny backbone, whose samples are NaN if they are dark.

    Attributes:
        service: the service.
        tiny: the backbone's network in numpy.
    """

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.tiny: TinyBackbone = tiny_backbone(folder, nan_below=-1.9)
        backend: Backend = choose_backend("cpu")
        self._backbones: Backbones = load(
            [read_folder(folder, allow_code_models=False)],
            [],
            backend,
            threads=1,
            cores=2,
            allow_code_models=False,
            skip_broken=False,
        )
        self.service = PoolService(
            Batcher(backend.run, prepare_threads=2, inline_bytes=backend.inline_bytes),
            threads,
            pb.GetServerInfoResponse,
            max_message_bytes=2**26,
            max_image_pixels=2**20,
            max_queue_bytes=2**29,
            max_unread_bytes=0,
            max_request_seconds=10.0,
            seconds_per_step=1e-9,
            backbones=self._backbones,
        )

    def outputs_of(self, file: bytes) -> dict[str, np.ndarray]:
        """Return each output of the network for an image file, in numpy."""
        return self.tiny.numpy_reference(self.samples_of(file))

    def samples_of(self, file: bytes) -> np.ndarray:
        """Return the normalized sample of an image file."""
        backbone = self._backbones.serving["tiny"]
        planes = images.decode(file, "RGB", max_pixels=2**20)
        return self.tiny.normalized(to_samples(planes, backbone.input, backbone.preprocessing))

    async def pool(self, request: pb.PoolRequest) -> pb.PoolResponse:
        return pb.PoolResponse.FromString(await self.service.pool(Call(request.SerializeToString())))


@pytest.fixture
def served(tmp_path: Path, image_threads: ThreadPoolExecutor) -> Served:
    return Served(tmp_path / "tiny", image_threads)


def floats(tensor: pb.Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, "<f4").reshape(tuple(tensor.shape))


@pytest.mark.parametrize("tap", ["features", "channels_last", "tokens", "embedding", "projected", "whitened"])
async def test_each_output_is_that_of_the_network(served: Served, tap: str) -> None:
    files = [jpeg(*size) for size in SIZES]
    responses = await asyncio.gather(
        *(served.pool(pb.PoolRequest(backbone="tiny", tap=tap, image=pb.Image(data=file))) for file in files)
    )
    for file, response in zip(files, responses, strict=True):
        outputs = served.outputs_of(file)
        is_map = tap in ("features", "channels_last", "tokens")
        expected = outputs["features" if is_map else tap][0]
        np.testing.assert_allclose(floats(response.results[0].tensor), expected, rtol=1e-4, atol=1e-5)


async def test_a_pooled_image_equals_its_pooled_tensor(served: Served) -> None:
    file = jpeg(40, 30)
    spec = to_message(GlobalAvgPool2d())
    of_image = await served.pool(pb.PoolRequest(specs=[spec], backbone="tiny", image=pb.Image(data=file)))
    expected = served.outputs_of(file)["embedding"]
    np.testing.assert_allclose(floats(of_image.results[0].tensor)[:, 0, 0], expected[0], rtol=1e-4, atol=1e-5)
    samples = np.concatenate([served.samples_of(file)] * 3)
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=samples.shape, data=samples.tobytes())
    of_tensor = await served.pool(pb.PoolRequest(specs=[spec], backbone="tiny", tensor=tensor))
    for vector in floats(of_tensor.results[0].tensor)[..., 0, 0]:
        np.testing.assert_allclose(vector, floats(of_image.results[0].tensor)[:, 0, 0], rtol=1e-5)


async def test_the_mean_of_a_class_activation_map_and_the_bias_are_the_logit(served: Served) -> None:
    file = jpeg(64, 48)
    classification = pb.Classification(top=5, activation_maps=True)
    request = pb.PoolRequest(backbone="tiny", image=pb.Image(data=file), classification=classification)
    response = await served.pool(request)
    logits = served.outputs_of(file)["logits"][0]
    assert [one.index for one in response.classes] == list(np.argsort(-logits))
    assert sum(one.probability for one in response.classes) == pytest.approx(1.0)
    bias = served.tiny.weights["head.bias"]
    for one in response.classes:
        assert one.label == f"class{one.index}"
        assert one.logit == pytest.approx(logits[one.index], rel=1e-4)
        assert floats(one.activation_map).mean() + bias[one.index] == pytest.approx(one.logit, rel=1e-4)


async def test_an_image_for_which_the_network_gives_nan_fails_alone_and_with_the_reason(served: Served) -> None:
    requests = [
        codec.RequestEncoder(pb.PoolRequest(image=pb.Image(), backbone="tiny")).encode(file)
        for file in (jpeg(40, 30), jpeg(40, 30, color=0), jpeg(33, 50))
    ]
    message = codec.encode_batch_request(requests)
    response = pb.PoolBatchResponse.FromString(await served.service.pool_batch(Call(message)))
    assert [result.status.code for result in response.results] == [0, 13, 0]
    assert "NaN" in response.results[1].status.message
