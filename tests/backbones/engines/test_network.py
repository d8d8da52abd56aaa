"""A backbone on the CPU and in a batch of tensors: outputs, pooling, classes and class activation maps."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbones.models import TinyBackbone

from poolservice.specs import GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d, PoolSpec
from poolservice_server.backbone_stage import BackboneFailed, BackboneInput, BackboneResult, BackboneStage, ClassChoice
from poolservice_server.backbones.engines.choice import open_engine
from poolservice_server.backbones.engines.classification import chosen_classes
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.engine import Engine
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.linear import Linear
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.stop import WorkStopped, never

Load = Callable[..., tuple[TinyBackbone, Network]]

OUTPUTS = ["features", "embedding", "channels_last", "tokens", "projected", "whitened"]


class CountingEngine:
    """Counts the runs of an engine, and keeps the tensors that they want."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.tensors, self.threads, self.close = engine.name, engine.tensors, engine.threads, engine.close
        self.runs = 0
        self.wanted: list[Sequence[str]] = []
        self._engine = engine

    def run(self, samples: Any, tensors: Sequence[str]) -> list[Any]:
        self.runs += 1
        self.wanted.append(tensors)
        return self._engine.run(samples, tensors)


def expected_output(backbone: TinyBackbone, output: str, images: np.ndarray) -> np.ndarray:
    """Return the planes of a map, or the vectors, of uint8 samples."""
    reference = backbone.numpy_reference(backbone.normalized(images))
    if output in ("channels_last", "tokens"):
        output = "features"
    values = reference[output]
    return values.reshape(-1, *values.shape[2:]) if values.ndim == 4 else values


def run(network: Network, output: str, samples: np.ndarray, *specs: PoolSpec) -> BackboneResult:
    return network.run_on_array(BackboneStage("tiny", output), BackboneInput(samples, specs), never)


def run_batch(network: Network, output: str, payloads: list[BackboneInput]) -> list[BackboneResult]:
    """Run a batch as a GPU does, with tensors in the CPU's memory."""
    batch = BackboneBatch(network, BackboneStage("tiny", output), payloads)
    tensors = batch.compute(torch.from_numpy(np.concatenate([payload.samples for payload in payloads])))
    return batch.results(tensors, 1.0)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_each_output_equals_the_network_in_numpy(load: Load, images: np.ndarray, output: str, engine: str) -> None:
    backbone, network = load(engines=(engine,))
    result = run(network, output, images)
    expected = expected_output(backbone, output, images)
    assert result.specs[0].values.dtype == np.float32
    np.testing.assert_allclose(result.specs[0].values, expected, rtol=1e-4, atol=1e-5)
    assert result.classes is None
    assert result.backbone_seconds > 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_each_output_of_a_batch_equals_the_network_in_numpy(
    load_for_tensors: Load, images: np.ndarray, output: str
) -> None:
    backbone, network = load_for_tensors()
    first, second = run_batch(network, output, [BackboneInput(images[:2], ()), BackboneInput(images[2:], ())])
    values = np.concatenate((first.specs[0].values, second.specs[0].values))
    np.testing.assert_allclose(values, expected_output(backbone, output, images), rtol=1e-4, atol=1e-5)


def test_the_times_of_all_samples_add_up(load: Load, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = load()
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    assert run(network, "features", images).backbone_seconds == len(images)


def test_the_engine_computes_a_tensor_of_several_outputs_once(load: Load, images: np.ndarray) -> None:
    _, network = load()
    network.engine = counting = CountingEngine(network.engine)
    payload = BackboneInput(images[:1], (), ClassChoice(1))
    network.run_on_array(BackboneStage("tiny", "projected"), payload, never)
    assert counting.wanted == [["features"]]


def test_gray_samples_of_a_network_with_one_channel(load: Load, images: np.ndarray) -> None:
    backbone, network = load(input=(1, 32, 32))
    gray = images[:, :1]
    expected = expected_output(backbone, "features", gray)
    np.testing.assert_allclose(run(network, "features", gray).specs[0].values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", OUTPUTS)
def test_each_output_of_samples_that_are_not_square(load: Load, output: str) -> None:
    backbone, network = load(input=(3, 32, 48))
    samples = np.random.default_rng(5).integers(0, 256, (2, 3, 32, 48), np.uint8)
    expected = expected_output(backbone, output, samples)
    values = run(network, output, samples).specs[0].values
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_samples_that_the_caller_normalized_give_the_same(load: Load, images: np.ndarray) -> None:
    backbone, network = load()
    first = run(network, "embedding", backbone.normalized(images)).specs[0].values
    np.testing.assert_allclose(first, run(network, "embedding", images).specs[0].values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["features", "channels_last", "tokens"])
def test_a_map_is_pooled_with_each_spec(load: Load, images: np.ndarray, output: str) -> None:
    backbone, network = load()
    planes = expected_output(backbone, output, images)
    mean, maximum, indexed = run(
        network, output, images, GlobalAvgPool2d(), MaxPool2d(2), MaxPool2d(8, return_indices=True)
    ).specs
    np.testing.assert_allclose(mean.values[:, 0, 0], planes.mean((1, 2)), rtol=1e-4, atol=1e-5)
    blocks = planes.reshape(-1, 4, 2, 4, 2).max(axis=(2, 4))
    np.testing.assert_allclose(maximum.values, blocks, rtol=1e-4, atol=1e-5)
    assert indexed.indices is not None
    assert indexed.indices.shape == (6 * 16, 1, 1)


def test_requests_with_other_specs_and_sizes_share_a_batch_and_get_their_own_results(
    load: Load, load_for_tensors: Load, images: np.ndarray
) -> None:
    (_, network), (_, for_tensors) = load(), load_for_tensors()
    payloads = [
        BackboneInput(images[:1], (GlobalAvgPool2d(),)),
        BackboneInput(images[1:3], (GlobalAvgPool2d(),)),
        BackboneInput(images[3:4], ()),
        BackboneInput(images[4:5], (MaxPool2d(2, return_indices=True), GlobalMaxPool2d())),
        BackboneInput(images[5:6], (), ClassChoice(2)),
        BackboneInput(images[:1], (GlobalAvgPool2d(),), ClassChoice(1, (3,), True)),
    ]
    for payload, batched in zip(payloads, run_batch(for_tensors, "features", payloads), strict=True):
        alone = network.run_on_array(BackboneStage("tiny", "features"), payload, never)
        assert len(batched.specs) == len(alone.specs)
        for got, expected in zip(batched.specs, alone.specs, strict=True):
            np.testing.assert_allclose(got.values, expected.values, rtol=1e-4, atol=1e-5)
            assert (got.indices is None) == (expected.indices is None)
        assert (batched.classes is None) == (alone.classes is None)
        if batched.classes is not None and alone.classes is not None:
            np.testing.assert_array_equal(batched.classes.indices, alone.classes.indices)
            np.testing.assert_allclose(batched.classes.logits, alone.classes.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["embedding", "features"])
def test_the_same_image_in_another_batch_gives_the_same_vector_within_the_stated_tolerance(
    load_for_tensors: Load, images: np.ndarray, output: str
) -> None:
    _, network = load_for_tensors()
    (alone,) = run_batch(network, output, [BackboneInput(images[:1], ())])
    together, *_ = run_batch(network, output, [BackboneInput(images[n : n + 1], ()) for n in range(6)])
    first, second = alone.specs[0].values.ravel(), together.specs[0].values.ravel()
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) >= 0.99999


class TestClasses:
    def test_the_best_classes_come_first_with_their_softmax(self, load: Load, images: np.ndarray) -> None:
        backbone, network = load(classes=9)
        payload = BackboneInput(images[:1], (), ClassChoice(3, (8, 0)))
        result = network.run_on_array(BackboneStage("tiny", "embedding"), payload, never)
        logits = backbone.numpy_reference(backbone.normalized(images[:1]))["logits"][0]
        best = np.argsort(-logits)[:3]
        assert result.specs == ()
        assert result.classes is not None
        wanted = [*best, *(number for number in (8, 0) if number not in best)]
        np.testing.assert_array_equal(result.classes.indices, wanted)
        assert result.classes.indices.dtype == np.int64
        np.testing.assert_allclose(result.classes.logits, logits[wanted], rtol=1e-4, atol=1e-5)
        softmax = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(result.classes.probabilities, softmax[wanted], rtol=1e-4)
        assert result.classes.activation_maps is None

    @pytest.mark.parametrize("engine", ["onnx", "torch"])
    def test_the_mean_of_an_activation_map_plus_the_bias_is_the_logit(
        self, load: Load, images: np.ndarray, engine: str
    ) -> None:
        backbone, network = load(engines=(engine,))
        for sample in images:
            payload = BackboneInput(sample[None], (GlobalAvgPool2d(),), ClassChoice(5, (), True))
            classes = network.run_on_array(BackboneStage("tiny", "features"), payload, never).classes
            assert classes is not None
            assert classes.activation_maps is not None
            assert classes.activation_maps.shape == (5, 8, 8)
            bias = backbone.weights["head.bias"][classes.indices]
            np.testing.assert_allclose(
                classes.activation_maps.mean((1, 2)) + bias, classes.logits, rtol=1e-4, atol=1e-5
            )

    def test_of_equal_logits_the_lower_class_is_better(self) -> None:
        scores = np.array([1, 3, 2, 3, 3], np.float32)
        np.testing.assert_array_equal(chosen_classes(scores, ClassChoice(2)), [1, 3])
        np.testing.assert_array_equal(chosen_classes(scores, ClassChoice(0, (4, 0, 4))), [4, 0])
        np.testing.assert_array_equal(chosen_classes(scores, ClassChoice(2, (3, 2))), [1, 3, 2])
        np.testing.assert_array_equal(chosen_classes(scores, ClassChoice(9)), [1, 3, 4, 2, 0])
        # numpy sorts longer arrays by other algorithms than short ones.
        many = np.tile(np.array([1, 2], np.float32), 500)
        np.testing.assert_array_equal(chosen_classes(many, ClassChoice(100)), range(1, 201, 2))

    def test_large_logits_do_not_overflow(self, load: Load, images: np.ndarray) -> None:
        backbone, network = load()
        samples = backbone.normalized(images[:1]) * 1e4
        payload = BackboneInput(samples, (), ClassChoice(5))
        classes = network.run_on_array(BackboneStage("tiny", "features"), payload, never).classes
        assert classes is not None
        assert classes.probabilities.sum() == pytest.approx(1)


class TestFailures:
    @pytest.mark.parametrize("output", ["features", "embedding"])
    def test_a_network_that_gives_nan_fails_with_the_reason(self, load: Load, images: np.ndarray, output: str) -> None:
        _, network = load(nan_below=-1.9)
        black = np.zeros_like(images[:1])
        run(network, output, images)
        for samples in (black, np.concatenate((images, black))):
            with pytest.raises(BackboneFailed, match=f"gives NaN or infinity for this input, in its output {output}"):
                run(network, output, samples)

    def test_a_batch_with_one_such_sample_fails(self, load_for_tensors: Load, images: np.ndarray) -> None:
        _, network = load_for_tensors(nan_below=-1.9)
        with pytest.raises(BackboneFailed, match="gives NaN or infinity for this input"):
            run_batch(network, "features", [BackboneInput(images, ()), BackboneInput(np.zeros_like(images[:1]), ())])

    def test_finite_values_whose_sum_overflows_are_a_result(self, load: Load) -> None:
        _, network = load()
        result = run(network, "features", np.full((1, 3, 32, 32), 1e37, np.float32))
        with np.errstate(over="ignore"):
            assert np.isinf(result.specs[0].values.sum())

    def test_logits_that_overflow_fail_with_the_reason(
        self, write: Callable[..., tuple[TinyBackbone, BackboneFolder]], images: np.ndarray
    ) -> None:
        _, folder = write()
        assert folder.head is not None
        folder = replace(folder, head=Linear(np.full_like(folder.head.weight, 1e38), folder.head.bias))
        engine = open_engine(folder, CpuDevice(), threads=1, allow_code_models=False)
        assert engine is not None
        network = Network(folder, engine, torch.device("cpu"), CoreBudget(1))
        payload = BackboneInput(images[:1] + np.float32(10), (), ClassChoice(5))
        with pytest.raises(BackboneFailed, match="the logits of this input are too large for float32"):
            network.run_on_array(BackboneStage("tiny", "features"), payload, never)

    def test_work_stops_between_two_samples(self, load: Load, images: np.ndarray) -> None:
        _, network = load()
        network.engine = counting = CountingEngine(network.engine)
        with pytest.raises(WorkStopped):
            network.run_on_array(
                BackboneStage("tiny", "features"), BackboneInput(images, ()), lambda: counting.runs == 2
            )
        assert counting.runs == 2

    def test_work_that_is_abandoned_while_it_waits_for_cores_does_not_run(
        self, write: Callable[..., tuple[TinyBackbone, BackboneFolder]], images: np.ndarray
    ) -> None:
        _, folder = write()
        engine = open_engine(folder, CpuDevice(), threads=1, allow_code_models=False)
        assert engine is not None
        counting, cores, abandoned = CountingEngine(engine), CoreBudget(1), threading.Event()
        network = Network(folder, counting, torch.device("cpu"), cores)
        stage, payload = BackboneStage("tiny", "features"), BackboneInput(images, ())
        with ThreadPoolExecutor(1) as pool:
            with cores.take(1):
                run = pool.submit(network.run_on_array, stage, payload, abandoned.is_set)
                while not cores.waiting:
                    pass
                abandoned.set()
            with pytest.raises(WorkStopped):
                run.result(60)
        assert counting.runs == 0
        # The cores are free again.
        network.run_on_array(stage, payload, never)
        assert counting.runs == len(images)
