"""The rest of the contract: dtypes, errors, and the rules that the proto states about itself."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

from poolservice.dtypes import DTYPE_NAMES, NUMPY_DTYPES, numpy_dtype, wire_dtype
from poolservice.errors import InvalidRequest, PoolError
from poolservice.v1 import pool_pb2 as pb

STUBS = "import poolservice.v1.pool_pb2, poolservice.v1.pool_pb2_grpc"


def test_the_stubs_are_imported_without_warnings() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", STUBS], check=True, timeout=60)


def test_payload_bytes_come_last_in_their_message() -> None:
    holders = []
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        numbers = [field.number for field in message.fields if field.type == FieldDescriptor.TYPE_BYTES]
        if numbers:
            holders.append(message.name)
            assert numbers == [max(field.number for field in message.fields)], message.name
    assert holders == ["Tensor", "Image"]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (pb.PoolRequest, ["tensor", "image", "backbone", "tap", "classification"]),
        (pb.PoolResult, ["tensor", "image"]),
        (pb.PoolStreamRequest, ["request"]),
    ],
)
def test_only_known_fields_are_behind_the_payload_bytes_in_their_parent(
    message: type[pb.PoolRequest], fields: list[str]
) -> None:
    assert [field.name for field in message.DESCRIPTOR.fields][-len(fields) :] == fields


def test_every_data_type_but_unspecified_has_a_numpy_dtype() -> None:
    assert set(NUMPY_DTYPES) == set(pb.DataType.values()) - {pb.DATA_TYPE_UNSPECIFIED}
    for wire, dtype in NUMPY_DTYPES.items():
        assert pb.DataType.Name(wire) == f"DATA_TYPE_{dtype.name.upper()}"
        assert numpy_dtype(wire) == dtype
        assert wire_dtype(dtype) == wire
    assert len(DTYPE_NAMES) == 10


@pytest.mark.parametrize("code", ["f4", "f8", "f2", "i2", "i4", "i8"])
def test_both_byte_orders_have_the_same_data_type(code: str) -> None:
    assert wire_dtype(np.dtype(f">{code}")) == wire_dtype(np.dtype(f"<{code}"))


@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [
        ("bool", "^tensor.dtype: bool cannot be pooled; convert to one of float32, .*; a mask can be sent as uint8$"),
        ("complex64", "^tensor.dtype: complex64 cannot be pooled; convert to one of float32, .*, int64; its real and"),
        (">u8", "^tensor.dtype: uint64 cannot be pooled; .*; int64 holds its values below"),
        ("O", "^tensor.dtype: object cannot be pooled; .*; these are Python objects, not numbers$"),
        ("U3", "^tensor.dtype: str96 cannot be pooled; .*; these are strings, not numbers$"),
        ("M8[s]", r"^tensor.dtype: datetime64\[s\] cannot be pooled; .*, int64$"),
        ("f4,i4", "^tensor.dtype: void64 cannot be pooled"),
    ],
)
def test_other_numpy_dtypes_are_rejected_with_a_hint(dtype: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        wire_dtype(np.dtype(dtype), field="tensor.dtype")


@pytest.mark.parametrize(("number", "name"), [(0, "DATA_TYPE_UNSPECIFIED"), (99, "DataType 99"), (-1, "DataType -1")])
def test_other_data_types_are_rejected(number: int, name: str) -> None:
    # An enum field of a message may hold any number.
    tensor = pb.Tensor.FromString(b"\x08" + (bytes([number]) if number >= 0 else b"\xff" * 9 + b"\x01"))
    with pytest.raises(
        InvalidRequest, match=f"^dtype: {name} is not a type that a tensor can have; choose one of DATA_TYPE_FL"
    ):
        numpy_dtype(tensor.dtype)


@pytest.mark.parametrize("error", [InvalidRequest("is wrong", field="specs[0].alpha"), InvalidRequest("is wrong")])
def test_an_error_can_be_pickled_and_copied(error: InvalidRequest) -> None:
    for restored in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(restored), str(restored), restored.reason, restored.field) == (
            type(error),
            str(error),
            error.reason,
            error.field,
        )
    assert isinstance(error, PoolError)
    assert isinstance(error, ValueError)


def test_within_prefixes_the_field_of_an_error() -> None:
    inner = InvalidRequest("must be 1", field="alpha").within("mixed_pool").within("specs[2]")
    assert str(inner) == "specs[2].mixed_pool.alpha: must be 1"
    assert InvalidRequest("is required").within("payload").field == "payload"
