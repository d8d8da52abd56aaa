"""The parameters of all operators as text behind `--op`."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tests.layers.examples import EXAMPLES

from poolservice.specs import LAYERS, PoolSpec, TensorParameter
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.operator_names import SEQUENTIAL, name_of
from poolservice_client._cli.operator_parser import parse


def _spec(text: str) -> PoolSpec:
    (operator,) = parse([text], {})
    assert operator.spec is not None
    return operator.spec


def _written(spec: PoolSpec, folder: Path) -> str:
    """Return a spec as text; its tensors are written to files."""
    if spec.operator == SEQUENTIAL:
        return "+".join(_written(layer, folder) for layer in vars(spec)["layers"])
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    assignments = [f"{name}={_text(value, folder)}" for name, value in values.items() if value is not None]
    return f"{name_of(type(spec))}:{','.join(assignments)}" if assignments else name_of(type(spec))


def _text(value: object, folder: Path) -> str:
    if isinstance(value, TensorParameter):
        path = folder / f"a+b{len(list(folder.iterdir()))}.npy"
        np.save(path, value.array)
        return str(path)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_each_example_can_be_written_as_text(tmp_path: Path) -> None:
    for spec, _ in EXAMPLES:
        assert _spec(_written(spec, tmp_path)) == spec


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("gem2d:p=3", {"p": 3.0}),
        ("gem2d:p=1e+1", {"p": 10.0}),
        ("gem2d:p=1x2.5", {"p": (1.0, 2.5)}),
        ("gem2d:p=3,kernel_size=3x2,stride=1,ceil-mode=TRUE", {"kernel_size": (3, 2), "ceil_mode": True}),
        ("ggem2d:p=3x1", {"p": (3.0, 1.0)}),
        ("spatial_pyramid2d:levels=4", {"levels": (4,)}),
        ("spatial_pyramid2d:levels=1x2,mode=avg", {"levels": (1, 2), "mode": "avg"}),
        ("rmac:levels=2", {"levels": 2}),
        ("adaptive_avg2d:output_size=2xnone", {"output_size": (2, None)}),
        ("pool_head:name=Salad-B", {"name": "Salad-B"}),
    ],
)
def test_a_parameter_is_parsed_by_its_type(text: str, parameters: dict[str, object]) -> None:
    spec = _spec(text)
    assert {name: getattr(spec, name) for name in parameters} == parameters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gem2d:p=two", "--op gem2d:p=two: p takes a number, or several, 0.5x0.25x0.25; got 'two'"),
        ("gem2d:p=[1,2]", "got '[1'; write several values with x between them, without brackets"),
        ("max2d:kernel_size=(3,2)", "3x2; got '(3'; write several values with x between them, without brackets"),
        ("rmac:levels=[2]", "levels takes a whole number; got '[2]'"),
        ("gem2d:p=1xx2", "p takes a number, or several"),
        ("gem2d:p=0", "--op gem2d:p=0: p: must be from"),
        ("ggem2d:p=", "p takes numbers, 0.5x0.25x0.25; got ''"),
        ("ggem2d", "ggem2d needs p: write --op ggem2d:p=0.5x0.25x0.25"),
        ("spatial_pyramid2d:levels=1.5", "levels takes whole numbers, 1x2x4; got '1.5'"),
        ("spatial_pyramid2d:mode=median", "mode: must be one of max, avg; got 'median'"),
        ("rmac:levels=1x2", "levels takes a whole number; got '1x2'"),
        ("rank2d", "rank2d needs rank: write --op rank2d:rank=2"),
        ("lp2d:kernel_size=2", "lp2d needs norm_type: write --op lp2d:norm_type=2"),
        ("bilinear2d:signed_sqrt=yes", "signed_sqrt takes true or false; got 'yes'"),
        ("crow2d:alpha=x", "alpha takes a number; got 'x'"),
        ("pool_head", "pool_head2d needs name: write --op pool_head2d:name=NAME"),
        ("ordinal2d", "ordinal2d needs weights: write --op ordinal2d:weights=FILE.npy"),
        ("roi_align:output_size=nonex2,boxes=boxes.npy", "output_size takes a size, 3, or one for each dimension, 3x2"),
        ("roi_align:boxes=2", "boxes takes the name of a .npy file; got '2': No such file or directory"),
        ("masked_avg1d:lengths=x", "lengths takes a whole number, or the name of a .npy file; got 'x'"),
        ("trimmed_mean2d", "trimmed_mean2d needs proportiontocut: write --op trimmed_mean2d:proportiontocut=2"),
        ("max2d:kernel_size=2+gapp2d", "there is no operator 'gapp2d'; did you mean gap2d?"),
        ("max2d:kernel_size=2+gap3d", "--op gap3d pools 3-D inputs and --op max2d:kernel_size=2 pools 2-D inputs"),
        ("max2d:kernel_size=2+", "kernel_size takes a size"),
        ("max2d:kernel_size=2,return_indices=true+gap2d", "layers[0].return_indices: a sequence has no indices"),
        ("+".join(["gap2d"] * 17), "has 17 layers; at most 16 can be applied one after the other"),
    ],
)
def test_a_wrong_text_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        parse([text], {})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_parameter_names_its_flag_only_if_the_command_has_one() -> None:
    with pytest.raises(UsageError, match="max2d needs kernel_size: give --kernel-size 2, or write --op max2d:kernel_s"):
        parse(["max2d"], {"kernel_size": None})
    with pytest.raises(UsageError, match=r"max2d needs kernel_size: write --op max2d:kernel_size=2$"):
        parse(["max2d"], {})


@pytest.mark.parametrize("header", [b"\x93NUMPY", b"\x93NUMPY\x01\x00\x04\x00(((\n", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(header)
    with pytest.raises(UsageError, match=r"weights takes the name of a \.npy file"):
        parse([f"ordinal2d:weights={path}"], {})


@pytest.mark.parametrize("shape", ["(9, 99)", "(9, 9**16)", "(9, 9999999999999999)"])
def test_a_file_that_claims_more_values_than_it_has_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "x.npy"
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(80))
    with pytest.raises(UsageError, match=r"weights takes the name of a \.npy file"):
        parse([f"ordinal2d:weights={path}"], {})


def test_every_layer_has_a_text_for_each_of_its_parameters() -> None:
    written = {type(spec).operator for spec, _ in EXAMPLES}
    classic = {name for name, _ in LAYERS} - written
    for (operator, _), layer in LAYERS.items():
        if operator in classic:
            for field in fields(layer):
                with pytest.raises(UsageError, match=f"{field.name} takes|is not NAME=VALUE"):
                    parse([f"{name_of(layer)}:{field.name}=?"], {})
