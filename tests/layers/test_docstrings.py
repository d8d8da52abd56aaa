"""The docstring of every layer has formula, shapes, range, NaN, parameters with defaults, errors, source."""

import ast
import dataclasses
import inspect
import pydoc
import re

import pytest

from poolservice.specs import LAYERS, PoolSpec

each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=[layer.__name__ for layer in LAYERS.values()])

#: The sections in their order. A layer without parameters has neither Args nor Raises.
SECTIONS = ("Shape", "Range", "NaN", "Args", "Raises", "Source")
OF_PARAMETERS = ("Args", "Raises")
KEEPS_DTYPE = "The result has the input's dtype."
GIVES_FLOATS = "Floating-point input keeps its dtype; integer input gives float32."


def docstring_of(layer: type[PoolSpec]) -> str:
    return inspect.cleandoc(layer.__doc__ or "")


def sections_of(layer: type[PoolSpec]) -> dict[str, str]:
    """Return the text of each section by its title, in order; the text before the first one has the title ""."""
    first, *others = re.split(rf"\n\n({'|'.join(SECTIONS)}):\s", docstring_of(layer))
    return {"": first} | dict(zip(others[::2], others[1::2], strict=True))


def sentences_of(text: str) -> str:
    """Return a section on one line."""
    return " ".join(text.split())


def parameters_of(layer: type[PoolSpec]) -> dict[str, str]:
    """Return the documentation of each parameter, in order."""
    args = sections_of(layer).get("Args", "")
    names_and_texts = re.split(r"^ {4}(\w+): ", f"    {args.lstrip()}", flags=re.MULTILINE)[1:]
    return {name: sentences_of(text) for name, text in zip(names_and_texts[::2], names_and_texts[1::2], strict=True)}


@each_layer
def test_a_docstring_has_all_sections_in_order(layer: type[PoolSpec]) -> None:
    expected = [title for title in SECTIONS if dataclasses.fields(layer) or title not in OF_PARAMETERS]
    sections = sections_of(layer)
    assert list(sections) == ["", *expected]
    assert all(sentences_of(text).endswith(".") for text in sections.values())


@each_layer
def test_a_docstring_begins_with_a_sentence_and_a_formula(layer: type[PoolSpec]) -> None:
    summary, blank, definition = sections_of(layer)[""].split("\n", 2)
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert not blank
    # Bilinear pooling gives the matrix B, and a pool head has the formulas of its kinds.
    assert re.search(r"\bout.{0,20} = |\bB\(c, d\) = |\bsum over ", definition)


@each_layer
def test_a_docstring_gives_the_shape_with_and_without_samples(layer: type[PoolSpec]) -> None:
    shape = sentences_of(sections_of(layer)["Shape"])
    spatial = {1: "L", 2: "H, W", 3: "D, H, W"}[layer.spatial_dims]
    assert re.match(rf"\(C, (\*|{spatial})\) (or|to) .*\(N, C, (\*|{spatial})\) to ", shape)


@each_layer
def test_a_docstring_documents_each_parameter_and_its_default(layer: type[PoolSpec]) -> None:
    documented = parameters_of(layer)
    assert list(documented) == [field.name for field in dataclasses.fields(layer)]
    for field in dataclasses.fields(layer):
        text = documented[field.name]
        default = re.search(r"\bDefault: (.+?)\.?$", text)
        if field.default is dataclasses.MISSING:
            assert text.endswith(("Required.", "Required, unless there are lengths.")), field.name
        elif field.default is None:
            # None stands for what the text says: the kernel size, the whole plane, no tensor.
            assert default or "required" in text.lower(), field.name
        else:
            assert default, field.name
            literal = re.match(r'\([\d, ]+\)|"\w+"|[\w.+-]*\w', default[1])
            assert literal, field.name
            assert ast.literal_eval(literal[0]) == field.default, field.name


@each_layer
def test_a_docstring_says_in_which_dtype_the_result_is(layer: type[PoolSpec]) -> None:
    text = sentences_of(sections_of(layer)["Range"])
    if layer.operator == "sequential":
        assert text.startswith("as that of each layer.")
    else:
        assert (KEEPS_DTYPE in text, GIVES_FLOATS in text) == (layer.keeps_dtype, not layer.keeps_dtype)


@each_layer
def test_a_docstring_names_a_source(layer: type[PoolSpec]) -> None:
    source = sentences_of(sections_of(layer)["Source"])
    assert re.search(r", (19|20)\d\d\b|\b(torch|timm)\.|the publications above", source)
    if dataclasses.fields(layer):
        assert sentences_of(sections_of(layer)["Raises"]).startswith("InvalidRequest: a parameter is invalid")


@each_layer
def test_help_finds_the_classes_that_a_docstring_names(layer: type[PoolSpec]) -> None:
    for name in re.findall(r"`([\w.]*Spec)`", docstring_of(layer)):
        assert inspect.isclass(pydoc.locate(name)), name
