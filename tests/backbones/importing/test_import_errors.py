"""`backbone import` of files and flags that are wrong: one sentence each, and nothing is written."""

import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tests.backbones.importing.conftest import Command
from tests.backbones.importing.graphs import CONVOLUTION, HEAD, SIZE, node, write_onnx


def _error(backbone: Command, model: object, tmp_path: Path, *flags: object) -> str:
    done = backbone("import", model, "-o", tmp_path / "new", *(flags or ("--preprocessing", "torchvision")))
    assert done.status == 2
    assert not (tmp_path / "new").exists()
    return done.error


def test_a_missing_file(backbone: Command, tmp_path: Path) -> None:
    assert _error(backbone, "no.onnx", tmp_path) == "no.onnx: there is no such file or folder"


@pytest.mark.parametrize("contents", [b"", b"\x00" * 100, b"not a model", b"\xff" * 5000])
def test_a_file_that_is_no_model(backbone: Command, tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(contents)
    error = _error(backbone, tmp_path / "x.onnx", tmp_path)
    assert "cannot be read as an ONNX model" in error or "is no ONNX model" in error


def test_a_truncated_model(backbone: Command, tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "x.onnx").write_bytes(whole[: len(whole) // 2])
    assert "x.onnx: " in _error(backbone, tmp_path / "x.onnx", tmp_path)


def _damaged(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        position = rng.randrange(len(damaged))
        change = rng.randrange(3)
        if change == 0:
            damaged[position] = rng.randrange(256)
        elif change == 1:
            del damaged[position : position + rng.randrange(1, 9)]
        else:
            damaged[position:position] = rng.randbytes(rng.randrange(1, 5))
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models_are_refused_in_one_sentence_or_run(backbone: Command, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    whole = write_onnx(tmp_path / "whole.onnx").read_bytes()
    for number in range(40):
        (tmp_path / "x.onnx").write_bytes(_damaged(whole, rng))
        done = backbone("import", tmp_path / "x.onnx", "-o", tmp_path / f"t{number}", "--preprocessing", "torchvision")
        assert (done.status, bool(done.stderr)) == (0, False) or (done.status == 2 and done.error)


def test_names_that_are_not_utf8(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx")
    model.write_bytes(model.read_bytes().replace(b"convolved", b"convolve\xff"))
    assert "its names must be UTF-8" in _error(backbone, model, tmp_path)


def test_tensors_of_another_size_than_their_data(backbone: Command, tmp_path: Path) -> None:
    model = onnx.load(str(write_onnx(tmp_path / "x.onnx")))
    model.graph.initializer[0].dims[0] += 1
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert "is a wrong ONNX model" in _error(backbone, tmp_path / "x.onnx", tmp_path)


def test_a_file_of_another_kind(backbone: Command, tmp_path: Path) -> None:
    (tmp_path / "x.h5").touch()
    (tmp_path / "x.pt2").touch()
    assert "must be an .onnx file, a state dict" in _error(backbone, tmp_path / "x.h5", tmp_path)
    assert "can run any code" in _error(backbone, tmp_path / "x.pt2", tmp_path)


def test_missing_external_data(backbone: Command, tmp_path: Path) -> None:
    model = onnx.load(str(write_onnx(tmp_path / "plain.onnx")))
    onnx.save(model, str(tmp_path / "x.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    assert "cannot be read as an ONNX model" in _error(backbone, tmp_path / "x.onnx", tmp_path)


def test_external_data_outside_the_folder(backbone: Command, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    model = onnx.load(str(write_onnx(tmp_path / "plain.onnx")))
    onnx.save(model, str(tmp_path / "x.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(str(tmp_path / "x.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights"
    (tmp_path / "inner" / "x.onnx").write_bytes(model.SerializeToString())
    assert "cannot be read as an ONNX model" in _error(backbone, tmp_path / "inner" / "x.onnx", tmp_path)


def test_operators_of_a_library(backbone: Command, tmp_path: Path) -> None:
    nodes = [node("Strange", ["pixels"], "odd", domain="com.example"), *CONVOLUTION, *HEAD]
    model = write_onnx(tmp_path / "x.onnx", nodes, domains={"com.example": 1})
    assert "has the operator Strange of the domain com.example" in _error(backbone, model, tmp_path)


def test_several_inputs(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx", inputs={"input_ids": ("N", 77)})
    assert "it has 2: pixels, input_ids" in _error(backbone, model, tmp_path)


def test_an_input_that_is_not_float32(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx", [node("Cast", ["pixels"], "logits", to=1)], dtype=TensorProto.UINT8)
    assert "must be float32, and is uint8" in _error(backbone, model, tmp_path)


@pytest.mark.parametrize("shape", [("N", 3, SIZE), ("N", 4, SIZE, SIZE), ("N", "C", SIZE, SIZE)])
def test_an_input_that_is_no_image(backbone: Command, tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    nodes = [node("Relu", ["pixels"], "out")]
    model = write_onnx(tmp_path / "x.onnx", nodes, input=shape, outputs={"out": shape})
    assert "must be images (N, C, H, W)" in _error(backbone, model, tmp_path)


def test_results_that_are_no_numbers(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, node("Neg", ["map"], "negative"), node("Sqrt", ["negative"], "out")]
    model = write_onnx(tmp_path / "x.onnx", nodes, outputs={"out": ("N", 8, 8, 8)})
    assert "has values that are no numbers" in _error(backbone, model, tmp_path)


def test_results_that_depend_on_the_batch(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, node("ReduceMax", ["map", "axis"], "most", keepdims=1), node("Sub", ["map", "most"], "out")]
    constants = {"axis": np.array([0], np.int64)}
    model = write_onnx(tmp_path / "x.onnx", nodes, outputs={"out": ("N", 8, 8, 8)}, constants=constants)
    assert "depends on the other images of its batch" in _error(backbone, model, tmp_path)


def test_an_unknown_tensor_gets_a_suggestion(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx", [*CONVOLUTION, *HEAD, node("Shape", ["map"], "sizes")])
    flags = ("--preprocessing", "timm", "--output")
    assert _error(backbone, model, tmp_path, *flags, "a=maps") == "the network has no tensor maps; did you mean map?"
    assert "must be NAME=TENSOR" in _error(backbone, model, tmp_path, *flags, "map")
    assert "two outputs" in _error(backbone, model, tmp_path, *flags, "a=map", "--output", "a=logits")
    assert "cannot be an output" in _error(backbone, model, tmp_path, *flags, "a=sizes")


def test_unknown_preprocessing(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx")
    assert "does not say how its images were prepared" in backbone("import", model, "-o", tmp_path / "new").error
    assert _error(backbone, model, tmp_path, "--preprocessing", "torchvison").endswith("did you mean torchvision?")
    assert "--mean must be numbers" in _error(backbone, model, tmp_path, "--mean", "a,b,c")
    for size in ("0", "2.5", "1,2,3", "inf", "nan", "1e30"):
        assert "--size must be one or two whole numbers from 1" in _error(backbone, model, tmp_path, "--size", size)
    for fraction in ("0", "-1", "nan", "1e-320"):
        error = _error(backbone, model, tmp_path, "--preprocessing", "timm", "--crop-fraction", fraction)
        assert error.startswith("--crop-fraction must be 0.01 or more; got ")
    assert "filter" in _error(backbone, model, tmp_path, "--filter", "cubic")


def test_flags_that_belong_to_another_kind_of_model(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx")
    assert "--architecture belongs to" in _error(backbone, model, tmp_path, "--architecture", "resnet18")
    assert "--weights belongs to" in _error(backbone, model, tmp_path, "--weights", "w.pth")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--labels", "imagenet-1k"), ("--preprocessing", "timm"), ("--name", "a"), ("--weights", "w.pth")],
)
def test_a_list_of_tensors_refuses_the_flags_of_a_new_folder(
    backbone: Command, tmp_path: Path, flag: str, value: str
) -> None:
    done = backbone("import", write_onnx(tmp_path / "x.onnx"), flag, value)
    assert (done.status, done.stdout) == (2, "")
    assert done.error == f"{flag} is about a new folder; name the folder with -o DIR"


def test_a_new_folder_and_a_list_of_tensors_exclude_each_other(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx")
    error = _error(backbone, model, tmp_path, "--preprocessing", "timm", "--all")
    assert error == "--all lists the tensors of a file, and -o makes a folder; leave one of them out"


@pytest.mark.parametrize("flags", [("--size", "40"), ("--resize", "none")])
def test_a_crop_fraction_without_effect_is_refused(backbone: Command, tmp_path: Path, flags: tuple[str, ...]) -> None:
    error = _error(backbone, write_onnx(tmp_path / "x.onnx"), tmp_path, "--crop-fraction", "0.9", *flags)
    assert error.startswith("--crop-fraction ")


def test_an_output_that_has_another_shape_than_the_file_says(backbone: Command, tmp_path: Path) -> None:
    # The shape is computed from the values of the image, so no analysis of the graph can find it.
    nodes = [
        *CONVOLUTION,
        node("ReduceMax", ["pixels"], "largest", keepdims=0),
        node("Sub", ["largest", "largest"], "zero"),
        node("Cast", ["zero"], "nothing", to=TensorProto.INT64),
        node("Add", ["nothing", "sizes"], "computed"),
        node("Reshape", ["map", "computed"], "out"),
    ]
    constants = {"sizes": np.array([-1, 512], np.int64)}
    model = write_onnx(tmp_path / "x.onnx", nodes, constants=constants, outputs={"out": ("N", 8, 8, 8)})
    error = _error(backbone, model, tmp_path)
    assert error == "the output out has the shape (N, 512), but the file says (N, 8, 8, 8)"


def test_an_input_that_is_larger_than_any_network(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx", input=("N", 3, 1 << 40, 1 << 40))
    assert backbone("import", model).error.endswith("but its sides must be at most 8192")


def _nested_functions(path: Path, depth: int) -> Path:
    """Write a model with functions of which each calls the next one twice."""
    model = onnx.load(str(write_onnx(path, domains={"local": 1})))
    for level in range(depth):
        inner = {"op_type": f"f{level + 1}", "domain": "local"} if level < depth - 1 else {"op_type": "Identity"}
        nodes = [onnx.helper.make_node(inputs=[a], outputs=[b], **inner) for a, b in (("a", "b"), ("b", "c"))]
        model.functions.append(onnx.helper.make_function("local", f"f{level}", ["a"], ["c"], nodes, model.opset_import))
    model.graph.node.insert(0, node("f0", ["pixels"], "same", domain="local"))
    model.graph.node[1].input[0] = "same"
    onnx.save(model, str(path))
    return path


def test_functions_that_multiply_are_refused_before_they_are_inlined(backbone: Command, tmp_path: Path) -> None:
    error = _error(backbone, _nested_functions(tmp_path / "x.onnx", 20), tmp_path)
    assert "x.onnx: its functions, inlined, have more than 100000 operators" in error


def test_labels_without_a_head(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "x.onnx", CONVOLUTION, outputs={"map": ("N", 8, 8, 8)})
    flags = ("--preprocessing", "timm", "--labels", "imagenet-1k")
    assert "--labels needs a linear head" in _error(backbone, model, tmp_path, *flags)


def test_an_unknown_flag_or_command(backbone: Command) -> None:
    done = backbone("import", "--archtecture", "x")
    assert (done.status, done.error) == (2, "unknown flag --archtecture; did you mean --architecture?")
    done = backbone("imprt")
    assert done.status == 2
    assert done.error.startswith("no such command 'imprt'. Did you mean 'import'")


def test_a_missing_package(backbone: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = _error(backbone, tmp_path / "x.onnx", tmp_path)
    assert error.startswith("backbones need onnxruntime; install poolservice with its backbones extra")


def test_control_characters_in_the_names_of_tensors_are_escaped(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION[:1], node("Relu", ["convolved"], "\x1b[31mmap")]
    model = write_onnx(tmp_path / "x.onnx", nodes, outputs={"\x1b[31mmap": ("N", 8, 8, 8)})
    listed = backbone("import", model)
    error = _error(backbone, model, tmp_path, "--preprocessing", "timm", "--output", "a=\x1b[31mmop")
    assert listed.status == 0
    for text in (listed.stdout, error):
        assert "\x1b" not in text
        assert "\\x1b[31mmap" in text
    # A manifest cannot hold such a name.
    assert "outputs.features.tensor must be" in _error(backbone, model, tmp_path)
