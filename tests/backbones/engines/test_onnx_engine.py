"""ONNX models by onnxruntime, on the CPU and through the interface for GPUs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data
from tests.backbones.models import TinyBackbone

from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.engines.onnx_engine import OnnxEngine, run_error
from poolservice_server.backbones.engines.onnx_gpu_engine import CUDA_PROVIDER, OnnxGpuEngine
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory

Write = Callable[..., tuple[TinyBackbone, BackboneFolder]]

SHAPE = (3, 32, 32)
TENSORS = ["features", "embedding", "channels_last", "tokens"]


def model_bytes(backbone: TinyBackbone) -> bytes:
    return (backbone.path / "model.onnx").read_bytes()


def test_each_tensor_equals_the_network_in_numpy(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    engine = OnnxEngine(model_bytes(backbone), threads=1, input_shape=SHAPE)
    assert list(engine.tensors) == TENSORS
    samples = backbone.normalized(images)
    expected = backbone.numpy_reference(samples)
    for name, values in zip(TENSORS, engine.run(samples, TENSORS), strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


def test_only_the_wanted_tensors_are_returned_in_the_wanted_order(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    engine = OnnxEngine(model_bytes(backbone), threads=1, input_shape=SHAPE)
    embedding, features = engine.run(backbone.normalized(images), ["embedding", "features"])
    assert (embedding.shape, features.shape) == ((6, 16), (6, 16, 8, 8))


def test_threads_share_a_session(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    engine = OnnxEngine(model_bytes(backbone), threads=2, input_shape=SHAPE)
    samples = backbone.normalized(images)
    (expected,) = engine.run(samples, ["features"])

    def run(number: int) -> bool:
        (values,) = engine.run(samples[number : number + 1], ["features"])
        return np.allclose(values, expected[number : number + 1], rtol=1e-6, atol=1e-6)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, [number % 6 for number in range(200)]))


def test_the_interface_for_gpus_gives_the_same_tensors(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    # onnxruntime's CPU provider stands in for the CUDA provider.
    engine = OnnxGpuEngine(model_bytes(backbone), device=torch.device("cpu"), input_shape=SHAPE)
    samples = backbone.normalized(images)
    expected = backbone.numpy_reference(samples)
    for name, values in zip(TENSORS, engine.run(torch.from_numpy(samples), TENSORS), strict=True):
        np.testing.assert_allclose(values.numpy(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_interface_for_gpus_finds_shapes_that_the_graph_does_not_say(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[-1].ClearField("dim_value")
    engine = OnnxGpuEngine(model.SerializeToString(), device=torch.device("cpu"), input_shape=SHAPE)
    (values,) = engine.run(torch.from_numpy(backbone.normalized(images)), ["features"])
    assert values.shape == (6, 16, 8, 8)


def test_the_interface_for_gpus_gives_outputs_in_half_precision(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    half = onnx.TensorProto.FLOAT16
    model.graph.node.append(onnx.helper.make_node("Cast", ["embedding"], ["half"], to=half))
    model.graph.output.append(onnx.helper.make_tensor_value_info("half", half, ["N", 16]))
    engine = OnnxGpuEngine(model.SerializeToString(), device=torch.device("cpu"), input_shape=SHAPE)
    embedding, halves = engine.run(torch.from_numpy(backbone.normalized(images)), ["embedding", "half"])
    torch.testing.assert_close(halves, embedding.to(torch.float16))


@pytest.mark.skipif(CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="onnxruntime has its CUDA provider")
def test_a_cuda_provider_that_cannot_be_loaded_is_an_error(write: Write) -> None:
    data = model_bytes(write()[0])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match="onnxruntime cannot load its CUDA provider on this machine"),
    ):
        OnnxGpuEngine(data, device=torch.device("cuda"), input_shape=SHAPE)


def test_a_model_for_one_sample_at_a_time_runs_on_the_cpu_and_takes_no_batches(
    write: Write, images: np.ndarray
) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    data = model.SerializeToString()
    assert not OnnxGpuEngine(data, device=torch.device("cpu"), input_shape=SHAPE).takes_batches
    assert OnnxGpuEngine(model_bytes(backbone), device=torch.device("cpu"), input_shape=SHAPE).takes_batches
    engine = OnnxEngine(data, threads=1, input_shape=SHAPE)
    (features,) = engine.run(backbone.normalized(images[:1]), ["features"])
    assert features.shape == (1, 16, 8, 8)


def test_external_data_comes_from_the_verified_bytes_and_no_file_is_opened(write: Write, images: np.ndarray) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    convert_model_to_external_data(model, location="weights.bin", size_threshold=64)
    onnx.save_model(model, backbone.path / "split.onnx")
    data, weights = (backbone.path / "split.onnx").read_bytes(), (backbone.path / "weights.bin").read_bytes()
    (backbone.path / "weights.bin").unlink()
    engine = OnnxEngine(data, threads=1, input_shape=SHAPE, external_data={"weights.bin": weights})
    samples = backbone.normalized(images)
    (features,) = engine.run(samples, ["features"])
    np.testing.assert_allclose(features, backbone.numpy_reference(samples)["features"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("input_name", "shape", "message"),
    [
        ("pixels", SHAPE, "onnx.input names pixels, and the inputs of the ONNX model are samples"),
        ("samples", (3, 64, 32), r"has the shape \['N', 3, 32, 32\], and backbone.toml says .* \[3, 64, 32\]"),
        (None, (1, 32, 32), "backbone.toml says that a sample is"),
    ],
)
def test_an_input_that_does_not_suit_the_manifest_is_refused(
    write: Write, input_name: str | None, shape: tuple[int, int, int], message: str
) -> None:
    backbone, _ = write()
    with pytest.raises(EngineError, match=message):
        OnnxEngine(model_bytes(backbone), threads=1, input_shape=shape, input_name=input_name)


def test_a_model_with_two_inputs_is_refused(write: Write) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["N"]))
    data = model.SerializeToString()
    with pytest.raises(EngineError, match=r"must have one input, .* it has samples, mask"):
        OnnxEngine(data, threads=1, input_shape=SHAPE)
    with pytest.raises(EngineError, match="needs further inputs, which no request has: mask"):
        OnnxEngine(data, threads=1, input_shape=SHAPE, input_name="samples")


def test_a_model_that_onnxruntime_cannot_load_is_refused_in_one_sentence(write: Write) -> None:
    backbone, _ = write()
    model = onnx.load_model_from_string(model_bytes(backbone))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"onnxruntime cannot load the model: .*NoSuchOperator") as caught:
        OnnxEngine(model.SerializeToString(), threads=1, input_shape=SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("std::bad_alloc", DeviceOutOfMemory),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1", DeviceOutOfMemory),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceFailed),
        ("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR", DeviceFailed),
        ("Got invalid dimensions for input", EngineError),
    ],
)
def test_errors_of_the_device_are_distinguished_from_others(message: str, expected: type[Exception]) -> None:
    assert type(run_error(message)) is expected


def test_an_error_of_a_run_becomes_an_error_of_the_engine(write: Write) -> None:
    backbone, _ = write()
    engine = OnnxEngine(model_bytes(backbone), threads=1, input_shape=SHAPE)
    with pytest.raises(EngineError, match="cannot run the network: Got invalid dimensions") as caught:
        engine.run(np.zeros((1, 3, 8, 8), np.float32), ["features"])
    # A traceback would keep the samples of the run.
    assert caught.value.__context__ is None


def test_onnxruntime_uses_the_given_threads_without_spinning(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[onnxruntime.SessionOptions] = []
    open_session = onnxruntime.InferenceSession

    def record(data: bytes, given: onnxruntime.SessionOptions, **further: object) -> onnxruntime.InferenceSession:
        options.append(given)
        return open_session(data, given, **further)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    OnnxEngine(model_bytes(write()[0]), threads=3, input_shape=SHAPE)
    assert options[0].intra_op_num_threads == 3
    assert options[0].get_session_config_entry("session.intra_op.allow_spinning") == "0"
