"""The schema of `backbone.toml`: what it accepts, and the sentences about what it refuses."""

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from tests.backbones.folder.example import EXAMPLE, refusal, replaced

from poolservice_server.backbones.manifest import Manifest, Preprocessing
from poolservice_server.backbones.manifest_file import WrongManifest, explain, parse_manifest

MINIMAL = f"""
schema = 1
name = "tiny"
licence = "MIT"
source = "here"
default_output = "features"
[onnx]
file = "model.onnx"
sha256 = "{"a" * 64}"
[input]
height = 32
width = 32
[preprocessing]
size = 36
[outputs.features]
kind = "map"
tensor = "features"
"""


def test_every_table_and_key_is_accepted() -> None:
    manifest = parse_manifest(EXAMPLE.encode())
    assert manifest.onnx
    assert manifest.onnx.external_data[0].file == "model.data"
    assert manifest.torch
    assert manifest.torch.arguments == {
        "num_classes": 10,
        "act_layer": "relu",
        "drop_rate": 0.0,
        "global_pool": False,
    }
    assert manifest.torch.arguments["global_pool"] is False
    assert manifest.outputs["patches"].grid == (14, 12)
    assert [key for key, _ in manifest.model_files()] == ["onnx", "torch", "program", "onnx.external_data[0]"]


def test_the_example_sets_every_key() -> None:
    tables = tomllib.loads(EXAMPLE)
    manifest = Manifest.model_validate(tables)
    for table in (manifest, manifest.onnx, manifest.torch, manifest.program, manifest.input, manifest.preprocessing):
        assert table
        assert table.model_fields_set == type(table).model_fields.keys()
    assert manifest.head
    assert manifest.head.model_fields_set == type(manifest.head).model_fields.keys()
    outputs = manifest.outputs.values()
    assert (
        set().union(*(output.model_fields_set for output in outputs)) == type(next(iter(outputs))).model_fields.keys()
    )


def test_keys_with_a_default_may_be_left_out() -> None:
    preprocessing = parse_manifest(MINIMAL.encode()).preprocessing
    assert (preprocessing.resize, preprocessing.rounding, preprocessing.filter) == ("shortest", "floor", "bilinear")
    assert (preprocessing.antialias, preprocessing.crop, preprocessing.fill) == (True, "center", 0)
    assert (preprocessing.scale, preprocessing.mean, preprocessing.std) == (1 / 255, (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 256", "size = [224, 192]"),
        ("size = 256", "size = 192"),
        ('resize = "shortest"\nsize = 256', 'resize = "squash"'),
        ('resize = "shortest"\nsize = 256', 'resize = "squash"\nsize = [300, 300]'),
        ('resize = "shortest"\nsize = 256', 'resize = "longest"\nsize = 100'),
        ('resize = "shortest"\nsize = 256', 'resize = "none"'),
        ("mean = [0.485, 0.456, 0.406]", "mean = [0]"),
        ("scale = 0.5", "scale = 1"),
        ("fill = 114", "fill = [124, 116, 104]"),
        ('filter = "bicubic"\nantialias = true', 'filter = "bilinear"\nantialias = false'),
        ('architecture = "timm:resnet50"', 'architecture = "my_package.networks:build"'),
        ('description = "ResNet-50, trained on ImageNet"', 'description = ""'),
        ('description = "ResNet-50, trained on ImageNet"', 'description = "Réseau, 網路"'),
    ],
)
def test_other_right_values_are_accepted(old: str, new: str) -> None:
    parse_manifest(replaced(old, new))


def test_a_squashed_image_needs_no_crop() -> None:
    for size in ("", "size = [224, 192]"):
        parse_manifest(replaced('resize = "shortest"\nsize = 256', f'resize = "squash"\n{size}', '"center"', '"none"'))


def test_a_model_is_needed() -> None:
    content = MINIMAL.replace("[onnx]", "[program]").replace("model.onnx", "model.pt2")
    assert parse_manifest(content.encode()).program
    before, _, after = MINIMAL.partition("[onnx]")
    content = before + after[after.index("[input]") :]
    assert refusal(content.encode()) == "a model is missing: add a table [onnx], [torch] or [program]"


def test_a_table_that_is_no_table_is_refused() -> None:
    content = MINIMAL.replace("[input]\nheight = 32\nwidth = 32\n", "").replace("schema = 1", "schema = 1\ninput = 32")
    assert refusal(content.encode()) == "input must be a table; got 32"


def test_missing_tables_are_named() -> None:
    assert refusal(b"schema = 1\n").startswith(
        "name is missing: name of the backbone in requests; licence is missing: "
    )


def test_at_most_five_faults_are_listed() -> None:
    sentence = refusal(b"".join(b"key%d = 1\n" % number for number in range(1000)))
    assert sentence.endswith("; and 1003 more")
    assert sentence.count(";") == 5
    assert len(sentence) < 2000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"schema = = 1\n", "must be TOML: Invalid value (at line 1, column 10)"),
        (b"schema = 1\n\nname\n", "must be TOML: Expected '=' after a key in a key/value pair (at line 3, column 5)"),
        (b"schema = 1\nschema = 1\n", "must be TOML: Cannot overwrite a value (at line 2, column 11)"),
        (b"schema = 1\nname = '\xff'\n", "must be UTF-8 text; line 2 is not"),
        (b"a = " + b"[" * 100_000, "must be TOML of less depth, and with shorter numbers"),
        (b"a = " + b"9" * 100_000, "must be TOML of less depth, and with shorter numbers"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_the_line(content: bytes, sentence: str) -> None:
    assert refusal(content) == sentence


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse_manifest(b"\xef\xbb\xbf" + MINIMAL.encode()).name == "tiny"


def test_the_name_of_a_refused_backbone_is_known() -> None:
    with pytest.raises(WrongManifest) as refused:
        parse_manifest(replaced("height = 224", "height = 0"))
    assert refused.value.name == "resnet50"


def test_a_part_of_the_schema_is_explained_with_its_own_keys() -> None:
    with pytest.raises(ValidationError) as refused:
        Preprocessing.model_validate({"size": 224, "filtre": "box"})
    assert explain(refused.value, Preprocessing) == "filtre is not a key of this file; did you mean filter?"


WRONG: list[Any] = [
    *(0, 1, -1, 2**70, 1.5, -1e300, float("nan"), float("inf"), True),
    *("", "x", "\n", "\ud800", "é" * 5000, "../x", "a.onnx"),
    *([], [1], ["x"], [1, 2, 3], [[[[]]]], [{}], {}, {"a": 1}, {"": {"": []}}),
    datetime(2026, 11, 27, tzinfo=UTC),
]


def places(table: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list and table with each of its indices and keys."""
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield table, key
        if isinstance(table[key], dict | list):
            yield from places(table[key])


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
def test_no_value_is_refused_with_the_words_of_a_library(value: Any) -> None:
    tables = tomllib.loads(EXAMPLE)
    refused = 0
    for table, key in places(tables):
        right, table[key] = table[key], value
        refused += check_sentence(tables)
        if isinstance(key, str):
            del table[key]
            check_sentence(tables)
            table[f"{key}_"] = right
            refused += check_sentence(tables)
            del table[f"{key}_"]
        table[key] = right
    assert refused > 80
    Manifest.model_validate(tables)


def check_sentence(tables: dict[str, Any]) -> bool:
    """Return True if the tables are refused, in a sentence that the operator can use."""
    try:
        Manifest.model_validate(tables)
    except ValidationError as error:
        sentence = explain(error)
    else:
        return False
    assert sentence.isascii()
    assert sentence.isprintable()
    assert len(sentence) < 3000
    for jargon in ("Input should", "Value error", "valid", "pydantic", "http", "type=", "instance", "validator"):
        assert jargon not in sentence
    return True
