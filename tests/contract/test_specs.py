"""Specs: the signatures of torch.nn, the error messages, and the conversion to messages and back."""

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.examples import EXAMPLES

from poolservice import specs
from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, OPERATORS, PoolSpec, from_message, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.pooling.dispatch import KERNELS

TORCH_LAYERS = sorted(layer.__name__ for layer in LAYERS.values() if hasattr(torch.nn, layer.__name__))

#: The layers of the first version, whose parameters are drawn. The others have examples.
CLASSIC = sorted(key for key in LAYERS if key[0] in KERNELS)

SIZES = st.integers(1, 9) | st.just(2**31 - 1)


def layer_named(name: str) -> Callable[..., PoolSpec]:
    found: Callable[..., PoolSpec] = getattr(specs, name)
    return found


@st.composite
def classic_spec(draw: st.DrawFn) -> PoolSpec:
    """Draw a valid spec of any classic layer with any of its parameters."""
    layer = LAYERS[draw(st.sampled_from(CLASSIC))]
    dims = layer.spatial_dims

    def size(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return one | st.lists(one, min_size=dims, max_size=dims)

    kernel_size = draw(size(SIZES))
    least = kernel_size if isinstance(kernel_size, int) else min(kernel_size)
    known = {
        "kernel_size": st.just(kernel_size),
        "stride": st.none() | size(SIZES),
        "padding": size(st.integers(0, least // 2)),
        "dilation": size(SIZES),
        "divisor_override": st.none() | st.sampled_from((1, -3, 2**63 - 1, -(2**63))),
        "norm_type": st.floats(allow_nan=False, allow_infinity=False).filter(bool),
        "alpha": st.floats(0, 1),
        "alpha_per_channel": st.none(),
        "output_size": size(st.none() | st.integers(0, 9)),
    }
    parameters = {
        field.name: draw(known.get(field.name, st.booleans()))
        for field in dataclasses.fields(layer)
        if field.default is dataclasses.MISSING or draw(st.booleans())
    }
    return layer(**parameters)


def any_spec() -> st.SearchStrategy[PoolSpec]:
    """Return a strategy for specs of every layer."""
    return classic_spec() | st.sampled_from([spec for spec, _ in EXAMPLES])


def test_all_layers_are_exported_and_documented() -> None:
    assert {operator for operator, _ in LAYERS} == set(OPERATORS)
    assert {dims for _, dims in LAYERS} == {1, 2, 3}
    for found in LAYERS.values():
        assert found.__name__ in specs.__all__
        assert getattr(specs, found.__name__) is found
        only_one = [dims for operator, dims in LAYERS if operator == found.operator] == [found.spatial_dims]
        assert only_one or found.__name__.endswith(f"{found.spatial_dims}d")
        assert found.__doc__
        assert "Shape: (C, " in found.__doc__
        for field in dataclasses.fields(found):
            assert f"\n        {field.name}: " in found.__doc__, (found.__name__, field.name)
    assert sorted(specs.__all__) == sorted(set(specs.__all__))
    assert all(hasattr(specs, name) for name in specs.__all__)


def test_torch_has_twenty_of_the_layers() -> None:
    assert len(TORCH_LAYERS) == 20


@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_parameters_have_the_names_order_and_defaults_of_torch(name: str) -> None:
    theirs = getattr(torch.nn, name)
    # What torch's layer gets with the input, such as the indices of MaxUnpool2d, is a parameter of the spec.
    with_the_input = set(inspect.signature(theirs.forward).parameters) - {"self", "input"}

    def parameters(layer: Any) -> list[tuple[str, object]]:
        return [
            (one.name, one.default)
            for one in inspect.signature(layer).parameters.values()
            if one.name not in with_the_input and not one.name.startswith("_")
        ]

    expected = parameters(theirs)
    # Parameters that torch lacks are behind torch's, and do nothing by default.
    assert parameters(layer_named(name))[: len(expected)] == expected


@pytest.mark.parametrize("name", sorted(found.__name__ for found in LAYERS.values()))
def test_every_parameter_has_a_field_in_its_message(name: str) -> None:
    found = getattr(specs, name)
    message = pb.PoolSpec.DESCRIPTOR.fields_by_name[found.operator].message_type
    assert message is not None
    missing = {field.name for field in dataclasses.fields(found)} ^ set(message.fields_by_name)
    assert missing == ({"divisor_override"} if name == "AvgPool1d" else set())


@pytest.mark.parametrize("layer", LAYERS.values(), ids=[layer.__name__ for layer in LAYERS.values()])
def test_an_unknown_argument_names_the_layer(layer: type[PoolSpec]) -> None:
    with pytest.raises(
        TypeError, match=rf"^{layer.__name__}\.__init__\(\) got an unexpected keyword argument 'nothing'"
    ):
        layer(nothing=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "arguments", "advice"),
    [
        (
            "MaxPool2d",
            {"kernal_size": 2},
            "unexpected keyword argument 'kernal_size'; did you mean kernel_size?",
        ),
        ("GeMPool2d", {"foo": 2}, "; GeMPool2d takes p, kernel_size, stride, padding, ceil_mode, eps"),
        ("RankPool2d", {}, "missing 1 required positional argument: 'rank'; RankPool2d takes rank, kernel_size"),
        ("GlobalAvgPool2d", {"p": 2}, "; GlobalAvgPool2d takes no parameters"),
    ],
)
def test_wrong_arguments_are_refused_with_advice(name: str, arguments: dict[str, Any], advice: str) -> None:
    with pytest.raises(TypeError, match=re.escape(advice)) as error:
        layer_named(name)(**arguments)
    assert str(error.value).startswith(f"{name}.__init__() ")


@given(spec=any_spec())
def test_a_spec_survives_the_conversion_to_a_message_and_back(spec: PoolSpec) -> None:
    message = pb.PoolSpec.FromString(to_message(spec).SerializeToString())
    back = from_message(message)
    assert (back, type(back), hash(back)) == (spec, type(spec), hash(spec))
    assert to_message(back) == message


@given(spec=any_spec())
def test_specs_are_immutable_and_can_be_evaluated_pickled_and_copied(spec: PoolSpec) -> None:
    # The repr of a spec with a large tensor shows the tensor's shape only.
    assert "<" in repr(spec) or eval(repr(spec), vars(specs)) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec) == copy.copy(spec) == dataclasses.replace(spec) == spec
    for field in dataclasses.fields(spec):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(spec, field.name, 3)


def test_specs_are_equal_if_and_only_if_they_have_the_same_meaning() -> None:
    two = specs.MaxPool2d(2)
    same = [
        specs.MaxPool2d((2, 2)),
        specs.MaxPool2d([2], 2),
        specs.MaxPool2d(torch.Size([2, 2]), []),
        specs.MaxPool2d(np.int64(2), np.uint8(2), np.int32(0)),  # type: ignore[call-overload]
        from_message(pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2]))),
    ]
    assert all(one == two and hash(one) == hash(two) for one in same)
    others = [specs.MaxPool2d(3), specs.MaxPool2d(2, 1), specs.MinPool2d(2), specs.MaxPool1d(2), specs.MaxPool3d(2)]
    assert all(one != two for one in others)
    assert len({specs.GlobalMaxPool2d(), specs.GlobalMinPool2d(), specs.GlobalMaxPool1d()}) == 3


def test_repr_is_the_shortest_constructor_call() -> None:
    assert repr(specs.MaxPool2d(2)) == "MaxPool2d(kernel_size=2)"
    assert repr(specs.AvgPool3d((2, 1, 1), 1, ceil_mode=True)) == (
        "AvgPool3d(kernel_size=(2, 1, 1), stride=1, ceil_mode=True)"
    )
    assert repr(specs.AdaptiveAvgPool2d((None, 3))) == "AdaptiveAvgPool2d(output_size=(None, 3))"
    assert repr(specs.GlobalMinPool1d()) == "GlobalMinPool1d()"


def test_the_window_has_every_default_filled_in() -> None:
    assert specs.LPPool2d(2, (3, 4)).window == ((3, 4), (3, 4), (0, 0), (1, 1), False)
    assert specs.MaxPool3d(3, 2, 1, 4, ceil_mode=True).window == ((3,) * 3, (2,) * 3, (1,) * 3, (4,) * 3, True)
    assert specs.AdaptiveMaxPool2d((None, 3)).sizes == (None, 3)


INT = "must be an int, or a list or tuple of ints; got "
RANGE = "must be from {} to 2147483647; got "

RULES: dict[str, tuple[Callable[[], object], str]] = {
    "kernel 0": (lambda: specs.MaxPool2d(0), f"kernel_size: {RANGE.format(1)}0"),
    "kernel below 0": (lambda: specs.MinPool2d((2, -1)), f"kernel_size: {RANGE.format(1)}-1"),
    "kernel of 33 bits": (lambda: specs.MaxPool1d(2**31), f"kernel_size: {RANGE.format(1)}2147483648"),
    "kernel of thousands of digits": (
        lambda: specs.AvgPool2d(10**5000),
        f"kernel_size: {RANGE.format(1)}an int of thousands",
    ),
    "kernel is a float": (lambda: specs.MaxPool2d(2.0), f"kernel_size: {INT}2.0"),  # type: ignore[call-overload]
    "kernel is a bool": (lambda: specs.MaxPool2d(True), f"kernel_size: {INT}True"),
    "kernel is text": (lambda: specs.MaxPool2d("2"), f"kernel_size: {INT}'2'"),  # type: ignore[arg-type]
    "kernel is bytes": (lambda: specs.MaxPool2d(b"22"), f"kernel_size: {INT}b'22'"),
    "kernel is an array": (
        lambda: specs.MaxPool2d(np.ones(2, int)),  # type: ignore[call-overload]
        f"kernel_size: {INT}array([1, 1])",
    ),
    "kernel of floats": (
        lambda: specs.MaxPool2d((2, 2.5)),  # type: ignore[arg-type]
        "kernel_size: must be an int; got 2.5",
    ),
    "no kernel": (
        lambda: specs.MaxPool2d(()),
        "kernel_size: MaxPool2d takes one value, or 2 values, one per dimension; got 0 in ()",
    ),
    "kernel for 3-D": (
        lambda: specs.AvgPool2d((1, 2, 3)),
        "kernel_size: AvgPool2d takes one value, or 2 values, one per dimension; got 3 in (1, 2, 3)",
    ),
    "kernel for 2-D": (lambda: specs.MaxPool1d((1, 2)), "kernel_size: MaxPool1d takes one value; got 2 in (1, 2)"),
    "kernel of thousands of sizes": (lambda: specs.MaxPool2d([2] * 9999), "got 9999 in [2, 2, 2, 2, 2, 2, ...]"),
    "stride 0": (lambda: specs.LPPool2d(2, 2, 0), f"stride: {RANGE.format(1)}0"),
    "padding below 0": (lambda: specs.MixedPool2d(2, padding=-1), f"padding: {RANGE.format(0)}-1"),
    "padding is None": (lambda: specs.MaxPool2d(2, padding=None), f"padding: {INT}None"),  # type: ignore[call-overload]
    "padding larger than half": (
        lambda: specs.AvgPool2d((4, 3), padding=2),
        "padding: must be at most half the kernel, 1 for a kernel_size of 3; got 2",
    ),
    "dilation 0": (lambda: specs.MinPool1d(2, dilation=0), f"dilation: {RANGE.format(1)}0"),
    "flag is an int": (
        lambda: specs.MaxPool2d(2, ceil_mode=1),  # type: ignore[call-overload]
        "ceil_mode: must be True or False; got 1",
    ),
    "flag is text": (
        lambda: specs.AdaptiveMaxPool2d(2, "yes"),  # type: ignore[call-overload]
        "return_indices: must be True or False; got 'yes'",
    ),
    "flag is None": (
        lambda: specs.AvgPool2d(2, count_include_pad=None),  # type: ignore[arg-type]
        "count_include_pad: must be True or False; got None",
    ),
    "divisor 0": (
        lambda: specs.AvgPool2d(2, divisor_override=0),
        "divisor_override: must be a 64-bit int other than 0; got 0",
    ),
    "divisor of 65 bits": (
        lambda: specs.AvgPool3d(2, divisor_override=2**63),
        "divisor_override: must be a 64-bit int other than 0; got 9223372036854775808",
    ),
    "divisor is a float": (
        lambda: specs.AvgPool2d(2, divisor_override=2.0),  # type: ignore[arg-type]
        "divisor_override: must be an int or None; got 2.0",
    ),
    "array as stride of planes": (
        lambda: specs.SoftPool2d(stride=np.zeros((2, 2))),  # type: ignore[arg-type]
        "stride: goes with a kernel_size; without one, the window is each plane",
    ),
    "padding of planes": (
        lambda: specs.GeMPool1d(padding=1),
        "padding: goes with a kernel_size; without one, the window is each plane",
    ),
    "array as padding of planes": (
        lambda: specs.SoftPool2d(padding=np.zeros((2, 2))),  # type: ignore[arg-type]
        "padding: must be an int, or a list or tuple of ints; got array(",
    ),
    "filter of size 0": (lambda: specs.BlurPool2d(0), "kernel_size: must be from 1 to 7; got 0"),
    "filter of size 8": (lambda: specs.MaxBlurPool1d(8), "kernel_size: must be from 1 to 7; got 8"),
    "too many layers": (
        lambda: specs.Sequential2d([specs.MaxPool2d(1)] * 17),
        "layers: must be a list of 1 to 16 specs such as [MaxPool2d(2), GeMPool2d()]; got 17 of them",
    ),
    "power 0": (lambda: specs.LPPool1d(0, 2), "norm_type: must be finite and other than 0"),
    "power is infinity": (
        lambda: specs.LPPool2d(float("inf"), 2),
        "must be finite and other than 0, or inf with absolute=True (without it, use MaxPool); got inf",
    ),
    "power is -infinity": (
        lambda: specs.LPPool2d(-float("inf"), 2, absolute=True),
        "norm_type: must be finite and other than 0, or inf with absolute=True (without it, use MaxPool); got -inf",
    ),
    "power is NaN": (lambda: specs.LPPool3d(float("nan"), 2), "norm_type: must be finite and other than 0"),
    "power is text": (
        lambda: specs.LPPool2d("2", 2),  # type: ignore[arg-type]
        "norm_type: must be a number; got '2'",
    ),
    "alpha above 1": (
        lambda: specs.MixedPool2d(2, alpha=1.5),
        "alpha: must be from 0 (the mean) to 1 (the maximum); got 1.5",
    ),
    "alpha is NaN": (lambda: specs.MixedPool2d(2, alpha=float("nan")), "alpha: must be from 0 (the mean) to 1"),
    "output size below 0": (lambda: specs.AdaptiveAvgPool2d(-1), f"output_size: {RANGE.format(0)}-1"),
    "output size is a float": (
        lambda: specs.AdaptiveAvgPool2d(2.0),  # type: ignore[arg-type]
        "output_size: must be an int, or a list or tuple of ints, or None to keep the input's; got 2.0",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), RULES.values(), ids=RULES)
def test_invalid_parameters_are_rejected(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)) as caught:
        make()
    assert caught.value.field
    assert len(str(caught.value)) < 200


MESSAGES: dict[str, tuple[pb.PoolSpec, str]] = {
    "no operator": (pb.PoolSpec(), "operator: is required: one of max_pool, avg_pool, min_pool, lp_pool, "),
    "no dimensions": (
        pb.PoolSpec(max_pool=pb.MaxPool(kernel_size=[2])),
        "spatial_dims: must be 1, 2 or 3, the number of dimensions to pool; got 0",
    ),
    "four dimensions": (pb.PoolSpec(spatial_dims=4, global_max_pool=pb.GlobalMaxPool()), "spatial_dims: must be 1"),
    "no kernel": (pb.PoolSpec(spatial_dims=2, avg_pool=pb.AvgPool()), "avg_pool.kernel_size: is required"),
    "no output": (
        pb.PoolSpec(spatial_dims=1, adaptive_max_pool=pb.AdaptiveMaxPool()),
        "adaptive_max_pool.output_size: is required",
    ),
    "no power": (
        pb.PoolSpec(spatial_dims=2, lp_pool=pb.LpPool(kernel_size=[2])),
        "lp_pool.norm_type: is required",
    ),
    "divisor in 1-D": (
        pb.PoolSpec(spatial_dims=1, avg_pool=pb.AvgPool(kernel_size=[2], divisor_override=0)),
        "avg_pool.divisor_override: is not a parameter of AvgPool1d; leave it out",
    ),
    "kernel of 0": (
        pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2, 0])),
        f"max_pool.kernel_size: {RANGE.format(1)}0",
    ),
    "thousands of sizes": (
        pb.PoolSpec(spatial_dims=2, mixed_pool=pb.MixedPool(kernel_size=[-(2**63)] * 2000)),
        "mixed_pool.kernel_size: MixedPool2d takes one value, or 2 values, one per dimension; got 2000 in (-922",
    ),
    "output size of -2": (
        pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[-1, -2])),
        f"adaptive_avg_pool.output_size: {RANGE.format(0)}-2",
    ),
}


@pytest.mark.parametrize(("message", "sentence"), MESSAGES.values(), ids=MESSAGES)
def test_an_invalid_message_is_rejected_with_the_path_of_its_field(message: pb.PoolSpec, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match="^" + re.escape(sentence)) as caught:
        from_message(message)
    assert len(str(caught.value)) < 300


def test_an_optional_field_keeps_its_zero() -> None:
    mixed = pb.PoolSpec(spatial_dims=2, mixed_pool=pb.MixedPool(kernel_size=[2], alpha=0))
    assert from_message(mixed) == specs.MixedPool2d(2, alpha=0)
    mean = pb.PoolSpec(spatial_dims=2, avg_pool=pb.AvgPool(kernel_size=[2], count_include_pad=False))
    assert from_message(mean) == specs.AvgPool2d(2, count_include_pad=False)
