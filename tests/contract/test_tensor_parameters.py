"""Tensors as parameters of specs: their form in Python and in messages, and their limits."""

import math
import pickle
import tracemalloc
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from poolservice import codec
from poolservice.dtypes import NUMPY_DTYPES
from poolservice.errors import InvalidRequest
from poolservice.specs import (
    MAX_PARAMETER_BYTES,
    MaskedAvgPool1d,
    MaskedAvgPool2d,
    MaskedMaxPool1d,
    MaxUnpool1d,
    PoolSpec,
    RoIAlign2d,
    Sequential,
    TensorParameter,
    from_message,
    to_message,
)
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.core.plan import read_head
from poolservice_server.operator_shapes import output_shape

FLOAT32 = pb.DATA_TYPE_FLOAT32
NUMPY_SIZES = {int(wire): dtype.itemsize for wire, dtype in NUMPY_DTYPES.items()}
#: The parameters of each operator that are tensors.
TENSORS = {
    field.name: names
    for field in pb.PoolSpec.DESCRIPTOR.oneofs_by_name["operator"].fields
    if field.message_type is not None
    and field.number in range(110, 130)
    and (names := [one.name for one in field.message_type.fields if one.message_type is pb.Tensor.DESCRIPTOR])
}


def masked(**tensor: Any) -> pb.PoolSpec:
    return pb.PoolSpec(spatial_dims=1, masked_avg_pool=pb.MaskedAvgPool(mask=pb.Tensor(**tensor)))


def request_with(*specs: PoolSpec | pb.PoolSpec, shape: tuple[int, ...] = (1, 4), data: bytes = b"") -> bytes:
    messages = [spec if isinstance(spec, pb.PoolSpec) else to_message(spec) for spec in specs]
    tensor = pb.Tensor(dtype=FLOAT32, shape=shape, data=data)
    return pb.PoolRequest(specs=messages, tensor=tensor).SerializeToString(deterministic=True)


def test_a_tensor_is_given_as_an_array_a_tensor_or_lists() -> None:
    specs = [
        MaskedAvgPool1d([0.5, 1.0]),
        MaskedAvgPool1d((0.5, 1.0)),
        MaskedAvgPool1d(np.array([0.5, 1.0])),
        MaskedAvgPool1d(np.array([0.5, 1.0], ">f8")),
        MaskedAvgPool1d(np.array([[0.5, 9.0], [1.0, 9.0]])[:, 0]),
        MaskedAvgPool1d(torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)),
    ]
    assert len(set(specs)) == 1
    assert {hash(spec) for spec in specs} == {hash(specs[0])}
    assert specs[0] != MaskedAvgPool1d(np.array([0.5, 1.0], np.float32))
    assert specs[0] != MaskedAvgPool1d([[0.5, 1.0]])
    assert MaskedAvgPool1d([0.0]) != MaskedAvgPool1d([-0.0])


def test_a_spec_does_not_change_with_the_array_that_it_was_made_of() -> None:
    array = np.array([1.0, 2.0])
    spec = MaskedAvgPool1d(array)
    array[0] = 5
    assert spec == MaskedAvgPool1d([1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        spec.mask.array[0] = 5


def test_specs_with_tensors_are_pickled() -> None:
    for spec in (RoIAlign2d([[1.0, 2.0, 3.0, 4.0]], 2), MaskedAvgPool1d(lengths=[1, 2]), MaskedAvgPool1d(lengths=2)):
        copy = pickle.loads(pickle.dumps(spec))
        assert (copy, hash(copy), copy.samples) == (spec, hash(spec), spec.samples)


def test_a_few_values_are_shown_and_many_are_described() -> None:
    assert repr(MaskedAvgPool1d([1, 0])) == "MaskedAvgPool1d(mask=[1, 0])"
    assert repr(MaskedAvgPool1d(lengths=3)) == "MaskedAvgPool1d(lengths=3)"
    assert repr(MaskedAvgPool1d(np.ones((2, 20), np.uint8))) == "MaskedAvgPool1d(mask=<uint8 (2, 20)>)"


def test_rows_belong_to_samples() -> None:
    assert MaskedAvgPool1d(lengths=2).samples is None
    assert MaskedAvgPool1d(lengths=[2]).samples is None
    spec = MaskedAvgPool1d(lengths=[2, 3, 4])
    assert spec.samples == 3
    assert spec.of_samples(slice(1, 3)) == MaskedAvgPool1d(lengths=[3, 4])
    assert spec.of_samples(slice(1, 2)).samples is None
    sequence = Sequential([MaskedMaxPool1d([1, 1, 1], 1), spec])
    assert sequence.samples == 3
    assert sequence.of_samples(slice(2)) == Sequential([MaskedMaxPool1d([1, 1, 1], 1), MaskedAvgPool1d(lengths=[2, 3])])


def test_the_bytes_of_a_spec_are_those_of_its_tensors() -> None:
    spec = MaskedAvgPool1d(lengths=[2, 3, 4])
    assert spec.parameter_bytes == 24
    assert spec.of_samples(slice(1)).parameter_bytes == 8
    assert Sequential([MaskedMaxPool1d(np.ones(5, np.uint8), 1), spec]).parameter_bytes == 29


class Broken:
    """An array of another library that cannot be read."""

    def __array__(self, *_arguments: object, **_options: object) -> "np.ndarray[Any, Any]":
        raise ValueError("the file behind it is gone")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "mask: is required"),
        ("mask.npy", "mask: must be an array, a tensor, or nested lists of numbers; got 'mask.npy'"),
        ([[1], [1, 2]], "mask: must be nested lists of the same length each; theirs differ"),
        (Broken(), "mask: is not a tensor: the file behind it is gone"),
        ([object()], "mask: must have numbers of a type such as float32 or int64; got other Python objects"),
        (np.ones(2, np.complex64), "mask: must have numbers of a type such as float32 or int64; got complex numbers"),
        (np.ones(2, np.uint32), "mask: must have numbers of a type such as float32 or int64; got uint32"),
        ([1.0, np.nan], "mask: must be finite; it has nan at [1]"),
        (np.ones((1, 2, 3)), "mask: must have 1 or 2 dimensions, (*) or (N, *); got shape (1, 2, 3)"),
        (np.ones((0, 2)), "mask: must have values for each sample; got shape (0, 2)"),
        (np.ones(MAX_PARAMETER_BYTES + 1, np.uint8), "mask: may have at most 8388608 bytes; got 8388609"),
    ],
)
def test_what_is_no_tensor_is_refused_in_words(value: object, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MaskedAvgPool1d(value)
    assert str(caught.value).startswith(sentence)


MESSAGES: dict[str, tuple[pb.PoolSpec, str]] = {
    "no dtype": (masked(shape=[1], data=b"1234"), "mask.dtype: DATA_TYPE_UNSPECIFIED is not a type"),
    "unknown dtype": (masked(dtype=99, shape=[1], data=b"1234"), "mask.dtype: DataType 99 is not a type"),
    "negative size": (masked(dtype=FLOAT32, shape=[-1], data=b""), "mask.shape: must have no negative size; got [-1]"),
    "huge size": (masked(dtype=FLOAT32, shape=[2**63 - 1]), "mask.shape: may have at most 8388608 bytes; got shape"),
    "sizes that overflow": (masked(dtype=FLOAT32, shape=[2**32, 2**32]), "mask.shape: may have at most 8388608 bytes"),
    "empty, but huge": (masked(dtype=FLOAT32, shape=[0, 2**62, 2**62]), "mask.shape: may have at most 8388608 bytes"),
    "many dimensions": (masked(dtype=FLOAT32, shape=[1] * 100, data=b"1234"), "mask.shape: must have at most 8"),
    "too few bytes": (masked(dtype=FLOAT32, shape=[2], data=b"1234"), "mask.data: has 4 bytes; shape [2] of float32"),
    "too many bytes": (masked(dtype=FLOAT32, shape=[], data=b"12345678"), "mask.data: has 8 bytes; shape [] of"),
    "NaN": (masked(dtype=FLOAT32, shape=[1], data=np.float32(np.nan).tobytes()), "mask: must be finite"),
    "too many dimensions": (masked(dtype=FLOAT32, shape=[1, 1, 1], data=b"1234"), "mask: must have 1 or 2 dimensions"),
    "an empty message": (masked(), "mask.dtype: DATA_TYPE_UNSPECIFIED is not a type"),
}


@pytest.mark.parametrize(("message", "sentence"), MESSAGES.values(), ids=MESSAGES)
def test_a_wrong_tensor_in_a_message_is_refused_with_the_path_of_its_field(message: pb.PoolSpec, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_message(message)
    assert str(caught.value).startswith(f"masked_avg_pool.{sentence}")
    assert len(str(caught.value)) < 300


def test_an_error_in_a_sequence_has_the_path_of_its_layer() -> None:
    sequence = pb.Sequential(layers=[masked(dtype=FLOAT32, shape=[2])])
    with pytest.raises(InvalidRequest) as caught:
        from_message(pb.PoolSpec(spatial_dims=1, sequential=sequence))
    assert caught.value.field == "sequential.layers[0].masked_avg_pool.mask.data"


def test_indices_may_be_of_any_integer_type() -> None:
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64):
        message = pb.PoolSpec.FromString(to_message(MaxUnpool1d(np.array([[1, 2]], dtype), 2)).SerializeToString())
        assert from_message(message) == MaxUnpool1d(np.array([[1, 2]], dtype), 2)


@pytest.mark.parametrize("count", [3, 60, 5000, 2**21 - 100])
def test_parameters_stay_in_the_head_and_the_payload_is_not_copied(count: int) -> None:
    spec = MaskedAvgPool1d(np.ones(count, np.float32))
    message = request_with(spec, spec if count < 10_000 else MaskedMaxPool1d([1]), data=bytes(4000))
    request = codec.decode_request(message)
    assert request.data.nbytes == 4000
    assert request.data.obj is message
    assert codec.parse_head(request.head).specs[0] == to_message(spec)
    if count < 10_000:
        # Every form of the same message has the same outcome.
        again = pb.PoolRequest.FromString(message)
        unusual = (
            pb.PoolRequest(tensor=again.tensor).SerializeToString()
            + pb.PoolRequest(specs=again.specs).SerializeToString()
        )
        assert codec.parse_head(codec.decode_request(unusual).head) == codec.parse_head(request.head)


def test_the_values_of_all_parameters_are_limited_together() -> None:
    half = MaskedAvgPool1d(np.ones(MAX_PARAMETER_BYTES // 2, np.uint8))
    assert len(codec.decode_request(request_with(half, half)).head) > MAX_PARAMETER_BYTES
    for specs in ((half, half, half), (half, half, MaskedAvgPool1d(np.ones(40_000, np.uint8)))):
        for message in (request_with(*specs), _payload_first(request_with(*specs))):
            with pytest.raises(InvalidRequest, match="specs: may have tensors of 8388608 bytes in all as parameters"):
                codec.decode_request(message)
    with pytest.raises(InvalidRequest, match="specs: may have tensors of 8388608 bytes in all as parameters"):
        read_head(codec.decode_request(request_with(half, half, MaskedAvgPool1d([1.0]))).head)


def test_parameters_do_not_widen_the_limit_of_everything_else() -> None:
    spec = to_message(MaskedAvgPool1d(np.ones(30_000, np.float32)))
    spec.masked_avg_pool.kernel_size.extend([1] * codec.MAX_HEAD_BYTES)
    for message in (request_with(spec), _payload_first(request_with(spec))):
        with pytest.raises(InvalidRequest, match="everything but the payload's bytes must take at most 16384 bytes"):
            codec.decode_request(message)


def test_too_large_parameters_are_refused_before_they_are_copied() -> None:
    values = np.zeros(4 * MAX_PARAMETER_BYTES, np.uint8).tobytes()
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[len(values)], data=values)
    message = request_with(pb.PoolSpec(spatial_dims=1, masked_avg_pool=pb.MaskedAvgPool(mask=tensor)))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="may have tensors of 8388608 bytes"):
            codec.decode_request(message)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_batch_of_requests_with_parameters_is_split() -> None:
    specs = [MaskedAvgPool1d(np.full(10_000, value, np.float32)) for value in (1, 2, 3)]
    message = codec.encode_batch_request([request_with(spec, data=b"1234") for spec in specs])
    requests = codec.decode_batch_request(message)
    assert [from_message(codec.parse_head(one.head).specs[0]) for one in requests] == specs


def test_the_memory_of_a_request_includes_each_copy_of_its_parameters() -> None:
    small, large = (MaskedAvgPool2d(np.ones((64, 64), dtype)) for dtype in (np.uint8, np.float64))
    plans = []
    for spec in (small, large):
        plan = read_head(codec.decode_request(request_with(spec, shape=(3, 64, 64))).head).tensor_plan
        assert plan is not None
        plans.append(plan)
    assert plans[1].cost.peak_bytes - plans[0].cost.peak_bytes == 3 * 7 * 64 * 64


def test_equal_tensors_are_equal_however_they_were_made() -> None:
    assert TensorParameter(np.arange(3)) == TensorParameter(np.arange(6)[:3])
    assert TensorParameter(np.arange(3)) != TensorParameter(np.arange(3).astype(np.int32))
    assert TensorParameter(np.arange(3)) != TensorParameter(np.arange(3)[None])
    assert TensorParameter(np.arange(3)) != [0, 1, 2]


@pytest.mark.parametrize("operator", TENSORS)
def test_any_tensor_gives_a_spec_or_an_error_that_names_a_field(operator: str) -> None:
    random = Random(operator)
    sizes = (-1, 0, 1, 2, 3, 4, 5, 2**31, 2**62, 2**63 - 1)
    given = 0
    refused = []
    for _ in range(600):
        dims = random.choice((1, 2, 3)) if operator.startswith(("masked", "max")) else 2
        message = pb.PoolSpec(spatial_dims=dims)
        parameters = getattr(message, operator)
        parameters.SetInParent()
        for name in ("kernel_size", "output_size"):
            if hasattr(parameters, name) and random.random() < 0.9:
                getattr(parameters, name).append(random.choice((1, 2, 3)))
        for name in TENSORS[operator]:
            if random.random() < 0.8:
                dtype: Any = random.choice((0, 1, 2, 3, 4, 5, 6, 9, 10, 77))
                shape = [random.choice(sizes[: random.choice((6, 6, 6, 10))]) for _ in range(random.randint(0, 5))]
                count = max(0, min(math.prod(shape), 2000)) * NUMPY_SIZES.get(dtype, 4) + random.choice((0, 0, 0, 1))
                data = bytes(count) if random.random() < 0.5 else random.randbytes(count)
                getattr(parameters, name).CopyFrom(pb.Tensor(dtype=dtype, shape=shape, data=data))
        try:
            spec = from_message(pb.PoolSpec.FromString(message.SerializeToString()))
            given += 1
            output_shape(spec.of_samples(slice(1)), (6, *(4,) * dims))
            assert from_message(to_message(spec)) == spec
        except InvalidRequest as error:
            refused.append(error)
    assert given
    assert all(error.field and len(str(error)) < 300 for error in refused)


def _payload_first(message: bytes) -> bytes:
    """Return the same message in another order of its fields."""
    request = pb.PoolRequest.FromString(message)
    return (
        pb.PoolRequest(tensor=request.tensor).SerializeToString()
        + pb.PoolRequest(specs=request.specs).SerializeToString()
    )
