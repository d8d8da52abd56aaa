"""ONNX files that the server refuses before onnxruntime reads them."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.engines.onnx_check import checked_model


def model_of(
    *nodes: onnx.NodeProto,
    initializers: tuple[onnx.TensorProto, ...] = (),
    opsets: dict[str, int] | None = None,
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        list(initializers),
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def refusal(model: onnx.ModelProto, external_data: dict[str, int] | None = None) -> str:
    with pytest.raises(EngineError) as caught:
        checked_model(model.SerializeToString(), external_data or {})
    return str(caught.value)


def external(location: str, *, name: str = "w", **entries: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside_if(graph: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["condition"], ["y"], then_branch=graph, else_branch=graph)


def inner_graph(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "inner", [], [output], list(initializers))


def test_a_model_of_the_standard_domains_is_accepted() -> None:
    model = model_of(
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft"),
        opsets={"": 17, "com.microsoft": 1, "ai.onnx.ml": 3},
    )
    assert checked_model(model.SerializeToString(), {}) == model


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x80\x04pickle", b"\x08" * 100])
def test_a_file_that_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(EngineError, match="the file is not an ONNX model"):
        checked_model(data, {})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda node: model_of(node),
        lambda node: model_of(inside_if(inner_graph(node))),
        lambda node: model_of(inside_if(inner_graph(inside_if(inner_graph(node))))),
        lambda node: model_of(
            functions=(helper.make_function("com.microsoft", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]),)
        ),
        lambda node: model_of(
            functions=(
                helper.make_function(
                    "com.microsoft", "f", ["x"], ["y"], [inside_if(inner_graph(node))], [helper.make_opsetid("", 17)]
                ),
            )
        ),
    ],
    ids=["graph", "branch", "branch of a branch", "function", "branch in a function"],
)
@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Mine", ["x"], ["inner"], domain="custom.ops"),
            "has the operator Mine of the domain custom.ops",
        ),
        (helper.make_node("ATen", ["x"], ["inner"], domain="org.pytorch.aten"), "of the domain org.pytorch.aten"),
        (
            helper.make_node("EPContext", ["x"], ["inner"], domain="com.microsoft"),
            "the operator EPContext, which can load",
        ),
        (
            helper.make_node("PythonOp", ["x"], ["inner"], domain="com.microsoft"),
            "the operator PythonOp, which can load",
        ),
        (
            helper.make_node("PythonOpGrad", ["x"], ["inner"], domain="com.microsoft"),
            "the operator PythonOpGrad, which can load",
        ),
        (
            helper.make_node("Constant", [], ["inner"], value=external("weights.bin")),
            "an attribute of the operator Constant in another file",
        ),
    ],
    ids=["custom domain", "torch's domain", "EPContext", "PythonOp", "PythonOpGrad", "external constant"],
)
def test_an_operator_that_could_do_anything_is_refused_wherever_it_is(
    wrap: Callable[[onnx.NodeProto], onnx.ModelProto], node: onnx.NodeProto, message: str
) -> None:
    assert message in refusal(wrap(node))


def test_a_name_from_the_file_can_write_nothing_but_text_to_a_terminal() -> None:
    message = refusal(model_of(helper.make_node("Mine\n\x1b[2J" + 5000 * "x", ["x"], ["y"], domain="custom.ops")))
    assert message.startswith("the ONNX model has the operator Mine\\n\\x1b[2Jxxx")
    assert len(message) <= 1100


def test_a_function_of_a_custom_domain_is_refused() -> None:
    function = helper.make_function(
        "custom.functions", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    assert "the function f of the domain custom.functions" in refusal(model_of(functions=(function,)))


@pytest.mark.parametrize(
    ("opsets", "message"),
    [
        ({"": 999}, "version 999 of the operators of ai.onnx"),
        ({"": 0}, "version 0 of the operators of ai.onnx"),
        ({"": 17, "ai.onnx.ml": 99}, "version 99 of the operators of ai.onnx.ml"),
        ({"": 17, "com.microsoft": 2}, "version 2 of the operators of com.microsoft"),
    ],
)
def test_an_unknown_opset_is_refused(opsets: dict[str, int], message: str) -> None:
    assert message in refusal(model_of(opsets=opsets))


def test_an_unknown_opset_of_a_function_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    function = helper.make_function("com.microsoft", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 999)])
    assert "needs version 999 of the operators of ai.onnx" in refusal(model_of(functions=(function,)))


def test_training_information_is_refused() -> None:
    model = model_of()
    model.training_info.add()
    assert "training information" in refusal(model)


@pytest.mark.parametrize(
    "location", ["weights.bin", "../weights.bin", "/etc/passwd", "sub/../../weights.bin", "", "file:///etc/passwd"]
)
@pytest.mark.parametrize("nested", [False, True], ids=["graph", "branch"])
def test_external_data_that_the_manifest_does_not_list_is_refused(location: str, nested: bool) -> None:
    tensor = external(location)
    if nested:
        graph = inner_graph(helper.make_node("Identity", ["w"], ["inner"]), initializers=(tensor,))
        model = model_of(inside_if(graph))
    else:
        model = model_of(initializers=(tensor,))
    message = refusal(model, {"other.bin": 16})
    assert f"keeps the tensor w in the file {location!r}, which backbone.toml does not list" in message


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "8", "length": "16"},
        {"offset": "-1"},
        {"length": "9" * 24},
        {"length": "9" * 5000},
        {"offset": "1e3"},
    ],
    ids=["too long", "negative", "huge", "more digits than int() reads", "no number"],
)
def test_external_data_beyond_the_end_of_its_file_is_refused(entries: dict[str, str]) -> None:
    model = model_of(initializers=(external("weights.bin", **entries),))
    assert "of weights.bin, which has 16 bytes" in refusal(model, {"weights.bin": 16})


@pytest.mark.parametrize(
    "value",
    [
        [TensorProto(), external("weights.bin")],
        onnx.SparseTensorProto(values=external("weights.bin")),
        onnx.SparseTensorProto(indices=external("weights.bin")),
        [onnx.SparseTensorProto(), onnx.SparseTensorProto(values=external("weights.bin"))],
    ],
    ids=["tensors", "values of a sparse tensor", "indices of a sparse tensor", "sparse tensors"],
)
def test_external_data_of_any_attribute_is_refused(value: object) -> None:
    model = model_of(helper.make_node("Constant", [], ["y"], value=value))
    assert "keeps an attribute of the operator Constant in another file" in refusal(model, {"weights.bin": 16})


def test_external_data_of_a_sparse_tensor_is_refused() -> None:
    model = model_of()
    model.graph.sparse_initializer.add(
        values=external("weights.bin"), indices=numpy_helper.from_array(np.arange(4), "i"), dims=[8]
    )
    assert "a sparse tensor in another file" in refusal(model, {"weights.bin": 16})
