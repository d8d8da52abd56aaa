"""`backbone import` of ONNX files."""

import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from tests.backbones.importing.conftest import Command
from tests.backbones.importing.graphs import BIAS, CHANNELS, CLASSES, CONVOLUTION, HEAD, SIZE, WEIGHT, node, write_onnx

from poolservice_server.backbones.folder import read_folder

PRESET = ("--preprocessing", "torchvision")


def _run(model: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def _images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


def test_one_command_makes_a_complete_folder(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET, "--licence", "MIT", "--source", "a test")
    assert (done.status, done.stderr) == (0, "")
    folder = read_folder(tmp_path / "tiny", allow_code_models=False)
    assert folder.manifest.name == "tiny"
    assert folder.manifest.default_output == "features"
    outputs = {name: (output.kind, output.tensor) for name, output in folder.manifest.outputs.items()}
    assert outputs == {"features": ("map", "map"), "logits": ("vector", "logits")}
    assert folder.head is not None
    np.testing.assert_array_equal(folder.head.weight, WEIGHT)
    np.testing.assert_array_equal(folder.head.bias, BIAS)


def test_the_feature_map_becomes_an_output_and_the_others_keep_their_values(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    before, after = _run(model, _images()), _run(tmp_path / "tiny" / "model.onnx", _images())
    assert set(after) == {"logits", "map"}
    np.testing.assert_array_equal(after["logits"], before["logits"])
    assert after["map"].shape == (3, CHANNELS, 8, 8)
    np.testing.assert_allclose(after["map"].mean((2, 3)) @ WEIGHT.T + BIAS, after["logits"], rtol=1e-4, atol=1e-5)


FLAT = [node("GlobalAveragePool", ["map"], "pooled"), node("Flatten", ["pooled"], "vector")]


def test_without_a_folder_the_tensors_that_can_be_outputs_are_listed(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, node("Conv", ["map", "deeper"], "deep", strides=[2, 2]), *FLAT, *HEAD[2:]]
    nodes[3] = node("GlobalAveragePool", ["deep"], "pooled")
    constants = {"deeper": np.ones((CHANNELS, CHANNELS, 1, 1), np.float32)}
    done = backbone("import", write_onnx(tmp_path / "model.onnx", nodes, constants=constants))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.status == 0
    assert ["map", "map", "8", "x", "8", "x", "8", "Relu"] in lines
    assert "deep    map     8 x 4 x 4  Conv     the default choice, the map of the linear head" in done.stdout
    assert "logits  vector  5          Gemm     an output of the file" in done.stdout
    assert "convolved" not in done.stdout
    assert "convolved" in backbone("import", tmp_path / "model.onnx", "--all").stdout


def test_chosen_tensors_become_outputs_and_the_first_one_is_the_default(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    done = backbone(
        "import", model, "-o", tmp_path / "t", *PRESET, "--output", "early=convolved", "--output", "v=vector"
    )
    assert done.status == 0, done.stderr
    manifest = read_folder(tmp_path / "t", allow_code_models=False).manifest
    # The head needs its map.
    assert list(manifest.outputs) == ["early", "v", "features"]
    assert manifest.default_output == "early"
    assert manifest.head is not None
    assert manifest.head.output == "features"


def test_images_with_channels_last_get_a_transposition(backbone: Command, tmp_path: Path) -> None:
    nodes = [node("Transpose", ["pixels"], "channels_first", perm=[0, 3, 1, 2]), *CONVOLUTION, *HEAD]
    nodes[1] = node("Conv", ["channels_first", "kernel"], "convolved", strides=[4, 4], pads=[1, 1, 1, 1])
    model = write_onnx(tmp_path / "model.onnx", nodes, input=("N", SIZE, SIZE, 3))
    assert backbone("import", model, "-o", tmp_path / "tiny", *PRESET).status == 0
    after = _run(tmp_path / "tiny" / "model.onnx", _images())
    before = _run(model, np.ascontiguousarray(_images().transpose(0, 2, 3, 1)))
    np.testing.assert_array_equal(after["logits"], before["logits"])


def test_a_fixed_batch_size_becomes_dynamic(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", input=(1, 3, SIZE, SIZE), outputs={"logits": (1, CLASSES)})
    assert backbone("import", model, "-o", tmp_path / "tiny", *PRESET).status == 0
    assert _run(tmp_path / "tiny" / "model.onnx", _images(4))["logits"].shape == (4, CLASSES)


def test_a_batch_size_in_the_graph_is_refused(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, HEAD[0], node("Reshape", ["pooled", "one"], "vector"), HEAD[2]]
    constants = {"one": np.array([1, CHANNELS], np.int64)}
    model = write_onnx(
        tmp_path / "m.onnx", nodes, constants=constants, input=(1, 3, SIZE, SIZE), outputs={"logits": (1, CLASSES)}
    )
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 2
    assert "does not run with a batch of 2 images" in done.error
    assert done.error.endswith("export it with a dynamic batch size")


def test_shapes_that_only_a_run_shows_are_found(backbone: Command, tmp_path: Path) -> None:
    # The size of the map is computed from the values of the image.
    nodes = [
        *CONVOLUTION,
        node("ReduceMax", ["pixels"], "largest", keepdims=0),
        node("Sub", ["largest", "largest"], "zero"),
        node("Cast", ["zero"], "nothing", to=onnx.TensorProto.INT64),
        node("Add", ["nothing", "sizes"], "computed"),
        node("Reshape", ["map", "computed"], "reshaped"),
        node("GlobalAveragePool", ["reshaped"], "pooled"),
        *HEAD[1:],
    ]
    constants = {"sizes": np.array([-1, CHANNELS, 8, 8], np.int64)}
    model = write_onnx(tmp_path / "model.onnx", nodes, constants=constants)
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 0, done.stderr
    assert "output features: map 8 x 8 x 8, from reshaped, the default output" in done.stdout
    assert "linear head of 5 classes" in done.stdout


def test_a_network_for_any_image_size_needs_one(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", input=("N", 3, -1, "W"))
    assert "--input-size" in backbone("import", model).error
    assert backbone("import", model, "-o", tmp_path / "t", *PRESET, "--input-size", "48,64").status == 0
    manifest = read_folder(tmp_path / "t", allow_code_models=False).manifest
    assert (manifest.input.height, manifest.input.width) == (48, 64)
    error = backbone("import", write_onnx(tmp_path / "fixed.onnx"), "--input-size", "48").error
    assert error == "the input's shape is (?, 3, 32, 32), but the images have height 48 and width 48"


def test_tokens_become_a_grid(backbone: Command, tmp_path: Path) -> None:
    nodes = [
        *CONVOLUTION,
        node("Reshape", ["map", "flat"], "rows"),
        node("Transpose", ["rows"], "grid", perm=[0, 2, 1]),
        node("ReduceMean", ["grid", "axis"], "class_token", keepdims=1),
        node("Concat", ["class_token", "grid"], "tokens", axis=1),
    ]
    constants = {"flat": np.array([0, CHANNELS, 64], np.int64), "axis": np.array([1], np.int64)}
    outputs = {"tokens": ("N", 65, CHANNELS)}
    model = write_onnx(tmp_path / "model.onnx", nodes, outputs=outputs, constants=constants)
    assert backbone("import", model, "-o", tmp_path / "t", *PRESET).status == 0
    features = read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs["features"]
    assert (features.kind, features.tensor, features.prefix_tokens, features.grid) == ("tokens", "tokens", 1, (8, 8))


def test_external_data_moves_into_the_file(backbone: Command, tmp_path: Path) -> None:
    model = onnx.load(str(write_onnx(tmp_path / "plain.onnx")))
    onnx.save(model, str(tmp_path / "model.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").exists()
    assert backbone("import", tmp_path / "model.onnx", "-o", tmp_path / "t", *PRESET).status == 0
    assert not (tmp_path / "t" / "weights").exists()
    np.testing.assert_array_equal(
        _run(tmp_path / "t" / "model.onnx", _images())["logits"], _run(tmp_path / "plain.onnx", _images())["logits"]
    )


def test_outputs_get_names_that_say_what_they_are(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, *HEAD[:2], node("Gemm", ["vector", "weight", "bias"], "191", transB=1)]
    nodes += [node("Softmax", ["191"], "192"), node("Relu", ["191"], "a/b:0")]
    outputs = dict.fromkeys(("191", "192", "a/b:0"), ("N", CLASSES))
    model = write_onnx(tmp_path / "model.onnx", nodes, outputs=outputs)
    done = backbone("import", model, "-o", tmp_path / "t", *PRESET)
    assert done.status == 0, done.stderr
    found = read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs
    assert {name: output.tensor for name, output in found.items()} == {
        "features": "map",
        "logits": "191",
        "vector": "192",
        "a_b_0": "a/b:0",
    }


def test_outputs_that_are_not_chosen_may_be_anything(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, *HEAD, node("ReduceMax", ["map"], "largest", keepdims=0)]
    model = write_onnx(tmp_path / "model.onnx", nodes, outputs={"logits": ("N", CLASSES), "largest": ()})
    done = backbone("import", model, "-o", tmp_path / "t", *PRESET)
    assert done.status == 0, done.stderr
    assert list(read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs) == ["features", "logits"]


def test_the_manifest_has_no_empty_table(backbone: Command, tmp_path: Path) -> None:
    assert backbone("import", write_onnx(tmp_path / "model.onnx"), "-o", tmp_path / "t", *PRESET).status == 0
    written = tomllib.loads((tmp_path / "t" / "backbone.toml").read_text())
    assert "projections" not in written
    assert all(table not in ({}, []) for table in written.values())


def test_labels_come_from_a_file_or_a_known_set(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\nhorse\ncow\nfrog\n\n")
    arguments = ("import", model, *PRESET, "-o")
    assert backbone(*arguments, tmp_path / "a", "--labels", tmp_path / "labels.txt").status == 0
    assert read_folder(tmp_path / "a", allow_code_models=False).labels == ("cat", "dog", "horse", "cow", "frog")
    error = backbone(*arguments, tmp_path / "b", "--labels", "imagenet-1k").error
    assert error == "--labels has 1000 labels, and the network has 5 classes"
    (tmp_path / "labels.txt").write_text("cat\n")
    error = backbone(*arguments, tmp_path / "b", "--labels", tmp_path / "labels.txt").error
    assert error == "--labels has 1 label, and the network has 5 classes"
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nhorse\ncow\n")
    error = backbone(*arguments, tmp_path / "b", "--labels", tmp_path / "labels.txt").error
    assert error.startswith("the server would refuse the new folder: labels.txt must have a name")
    assert "No such file" in backbone(*arguments, tmp_path / "b", "--labels", "imagenet").error
    assert not (tmp_path / "b").exists()


def test_an_existing_folder_is_not_overwritten(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    target = tmp_path / "taken"
    target.mkdir()
    (target / "file").write_text("mine")
    assert f"{target} exists" in backbone("import", model, "-o", target, *PRESET).error
    assert [path.name for path in target.iterdir()] == ["file"]
    (target / "file").unlink()
    assert backbone("import", model, "-o", target, *PRESET).status == 0


def test_a_failed_import_leaves_nothing_behind(backbone: Command, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    (tmp_path / "backbones").mkdir()
    done = backbone("import", model, "-o", tmp_path / "backbones" / "t", *PRESET, "--name", "not a name")
    assert done.status == 2
    assert done.error.startswith("name")
    assert list((tmp_path / "backbones").iterdir()) == []


def test_functions_are_inlined(backbone: Command, tmp_path: Path) -> None:
    model = onnx.load(str(write_onnx(tmp_path / "model.onnx", domains={"local": 1})))
    identity = onnx.helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(onnx.helper.make_function("local", "same", ["a"], ["b"], [identity], model.opset_import))
    model.graph.node.insert(0, node("same", ["pixels"], "copy", domain="local"))
    model.graph.node[1].input[0] = "copy"
    onnx.save(model, str(tmp_path / "model.onnx"))
    done = backbone("import", tmp_path / "model.onnx", "-o", tmp_path / "t", *PRESET)
    assert done.status == 0, done.stderr
    assert not onnx.load(str(tmp_path / "t" / "model.onnx")).functions


def test_tensors_that_are_sequences_are_not_outputs(backbone: Command, tmp_path: Path) -> None:
    nodes = [*CONVOLUTION, *HEAD, node("SplitToSequence", ["map", "split"], "parts", axis=1)]
    model = write_onnx(tmp_path / "model.onnx", nodes, constants={"split": np.array([3, 5], np.int64)})
    done = backbone("import", model, "-o", tmp_path / "t", *PRESET)
    assert done.status == 0, done.stderr
    assert list(read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs) == ["features", "logits"]


def test_many_outputs_get_different_names(backbone: Command, tmp_path: Path) -> None:
    names = ["é" * (number + 1) for number in range(3)]
    nodes = [*CONVOLUTION, *(node("Relu", ["map"], name) for name in names)]
    model = write_onnx(tmp_path / "model.onnx", nodes, outputs=dict.fromkeys(names, ("N", CHANNELS, 8, 8)))
    assert backbone("import", model, "-o", tmp_path / "t", *PRESET).status == 0
    found = read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs
    assert list(found) == ["features", "output", "output-2"]
