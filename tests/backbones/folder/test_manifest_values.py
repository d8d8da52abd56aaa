"""Each wrong value of a `backbone.toml` is refused in a sentence that says what would be right."""

import pytest
from tests.backbones.folder.example import refusal, replaced


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        # Values of the wrong type or out of range.
        ("schema = 1", "schema = 2", "schema must be 1; got 2"),
        ("schema = 1", 'schema = "1"', 'schema must be 1; got "1"'),
        ('"resnet50"', "50", "name must be text in quotes; got 50"),
        (
            '"resnet50"',
            '"resnet 50"',
            "name must be 1 to 64 letters, digits, dots, dashes and underscores, the first a",
        ),
        ('"Apache-2.0"', '""', 'licence must not be empty; got ""'),
        ('"Apache-2.0"', '"Apache\\n2.0"', "licence must be one line of at most 1000 printable characters; got"),
        ("height = 224", 'height = "224"', 'input.height must be a whole number; got "224"'),
        ("height = 224", "height = 224.0", "input.height must be a whole number; got 224.0"),
        ("height = 224", "height = true", "input.height must be a whole number; got true"),
        ("height = 224", "height = 0", "input.height must be at least 1; got 0"),
        ("width = 192", "width = 10000", "input.width must be at most 8192; got 10000"),
        (
            'resize = "shortest"',
            'resize = "crop"',
            "preprocessing.resize must be shortest, squash, longest or none; got",
        ),
        (
            "size = 256",
            "size = 256.5",
            "preprocessing.size must be a whole number from 1 to 8192, or [height, width]; got",
        ),
        (
            "size = 256",
            "size = [256]",
            "preprocessing.size must be a whole number from 1 to 8192, or [height, width]; got",
        ),
        (
            "size = 256",
            "size = 0",
            "preprocessing.size must be a whole number from 1 to 8192, or [height, width]; got 0",
        ),
        ("antialias = true", 'antialias = "yes"', 'preprocessing.antialias must be true or false; got "yes"'),
        ("fill = 114", "fill = 256", "preprocessing.fill must be a whole number from 0 to 255, or a list"),
        ("fill = 114", "fill = [1.5]", "preprocessing.fill must be a whole number from 0 to 255, or a list"),
        (
            "fill = 114",
            "fill = [1, 2]",
            "preprocessing.fill must have one number or 3, because input.color_mode is RGB",
        ),
        ("scale = 0.5", "scale = 0", "preprocessing.scale must be greater than 0; got 0"),
        ("scale = 0.5", "scale = inf", "preprocessing.scale must be a finite number; got Infinity"),
        ("0.456", '"0.456"', 'preprocessing.mean[1] must be a number; got "0.456"'),
        ("mean = [0.485, 0.456, 0.406]", "mean = 0.5", "preprocessing.mean must be a list; got 0.5"),
        ("0.224", "0", "preprocessing.std[1] must be greater than 0; got 0"),
        (
            "grid = [14, 12]",
            "grid = 14",
            "outputs.patches.grid must be a list of two whole numbers from 1 to 8192; got 14",
        ),
        ("prefix_tokens = 1", "prefix_tokens = -1", "outputs.patches.prefix_tokens must be at least 0; got -1"),
        ("[outputs.pooled]", '[outputs."a b"]', 'outputs."a b" must be 1 to 64 letters, digits'),
        (
            "drop_rate = 0.0",
            "drop_rate = [1]",
            "torch.arguments.drop_rate must be true, false, a number or text; got [1]",
        ),
        (
            "drop_rate = 0.0",
            "drop_rate = nan",
            "torch.arguments.drop_rate must be true, false, a number or text; got NaN",
        ),
        (
            f'"{"a" * 64}"',
            '"abc"',
            "onnx.sha256 must be 64 hexadecimal digits in lower case, as sha256sum prints them; got",
        ),
        (f'"{"a" * 64}"', f'"{"A" * 64}"', "onnx.sha256 must be 64 hexadecimal digits in lower case"),
        # Files.
        ('"model.onnx"', '"/etc/model.onnx"', 'onnx.file must be the path of a file inside the folder; got "/etc/'),
        ('"model.onnx"', '"../model.onnx"', "onnx.file must be the path of a file inside the folder; got"),
        ('"model.onnx"', '""', "onnx.file must be the path of a file inside the folder; got"),
        ('"model.onnx"', '"./model.onnx"', 'onnx.file must be a plain path such as "model.onnx"'),
        ('"model.onnx"', '"a\\\\model.onnx"', "onnx.file must be a plain path such as"),
        (
            '"model.onnx"',
            '"model.pth"',
            "onnx.file must be a .onnx file (poolservice-server backbone import makes a folder",
        ),
        ('"weights/model.safetensors"', '"model.pth"', "torch.file must be a .safetensors file"),
        ('"model.pt2"', '"model.pt"', "program.file must be a .pt2 file"),
        (
            '"head.safetensors"',
            '"small.safetensors"',
            "projections.small.file must be another file than head.file; both",
        ),
        ('"labels.txt"', '"backbone.toml"', "head.labels must be another file than this file; both are"),
        # Missing and unknown keys.
        ('licence = "Apache-2.0"\n', "", "licence is missing: licence of the weights, such as Apache-2.0"),
        ("height = 224\n", "", "input.height is missing: height of a sample in pixels"),
        (f'sha256 = "{"e" * 64}"\n', "", "head.sha256 is missing: SHA-256 of the file, as sha256sum prints it"),
        (f', sha256 = "{"b" * 64}"', "", "onnx.external_data[0].sha256 is missing: SHA-256 of the file"),
        ('kind = "pca_whitening"\n', "", "projections.white.kind is missing: linear or pca_whitening"),
        ('kind = "tokens"\n', "", "outputs.patches.kind is missing: map, tokens or vector"),
        ("licence =", "license =", "license is not a key of this file; did you mean licence?"),
        ("color_mode =", "colour_mode =", "input.colour_mode is not a key of [input]; did you mean color_mode?"),
        ("prefix_tokens =", "prefix =", "outputs.patches.prefix is not a key of [outputs.patches]; did you mean"),
        (
            "fill = 114",
            "zzz = 114",
            "preprocessing.zzz is not a key of [preprocessing], which has resize, size, rounding",
        ),
        # Models.
        (
            '"timm:resnet50"',
            '"resnet50"',
            "torch.architecture must be poolservice:NAME, timm:NAME or MODULE:CALLABLE; got",
        ),
        ('"timm:resnet50"', '"timm:hf-hub:a/b"', "torch.architecture must be poolservice:NAME, timm:NAME or MODULE:"),
        (
            "num_classes = 10",
            "pretrained = true",
            "torch.arguments.pretrained must be left out: the weights come from the",
        ),
        # Input and preprocessing.
        ('"RGB"', '"GRAY"', 'input.channel_order must be left out with color_mode = "GRAY", which has one channel'),
        ("size = 256\n", "", 'preprocessing.size is missing: with resize = "shortest", the pixels of the shorter side'),
        (
            '"shortest"\nsize = 256',
            '"longest"',
            'preprocessing.size is missing: with resize = "longest", the pixels of the',
        ),
        (
            '"shortest"',
            '"squash"',
            'preprocessing.size must be [height, width] with resize = "squash", such as [256, 256]',
        ),
        ('"shortest"', '"none"', 'preprocessing.size must be left out with resize = "none"'),
        ('"center"', '"none"', 'preprocessing.crop must be center with resize = "shortest", which leaves one side'),
        (
            "size = 256",
            "size = 191",
            "preprocessing.size must be at least 192, the shorter side of the input, or images are",
        ),
        (
            "size = 256",
            "size = [192, 224]",
            "preprocessing.size must be at least [224, 192], the input's, or images are",
        ),
        (
            'filter = "bicubic"\nantialias = true',
            'filter = "lanczos"\nantialias = false',
            "preprocessing.antialias must be",
        ),
        (
            "mean = [0.485, 0.456, 0.406]",
            "mean = [123.7, 116.3, 129]",
            "preprocessing.mean must be of scaled pixels, which",
        ),
        (
            "mean = [0.485, 0.456, 0.406]",
            "mean = [0, 0]",
            "preprocessing.mean must have one number or 3, because input.",
        ),
        (
            "std = [0.229, 0.224, 0.225]",
            "std = []",
            "preprocessing.std must have one number or 3, because input.color_mode",
        ),
        # Outputs.
        (
            '"features"\n\n[onnx]',
            '"feature"\n\n[onnx]',
            "default_output must be features, patches, pooled, small or white; got",
        ),
        ('source = "pooled"', 'source = "pooled"\nmodule = "x"', "outputs.white.module must be left out of an output"),
        (
            'tensor = "layer4"\nmodule = "layers.4"\n',
            "",
            'outputs.features.tensor is missing: an output of kind = "map" is',
        ),
        ('tensor = "pooled"\n', "", "outputs.pooled.tensor is missing: name the network's tensor, or set source and"),
        ('tensor = "pooled"', 'tensor = ""', "outputs.pooled.tensor must not be empty"),
        (
            'tensor = "pooled"',
            'tensor = "pooled"\nsource = "features"',
            "outputs.pooled.source must be left out of an output",
        ),
        (
            'tensor = "pooled"',
            'tensor = "pooled"\npool = "avg"',
            "outputs.pooled.pool must be left out of an output without",
        ),
        (
            'tensor = "pooled"',
            'tensor = "pooled"\nlayout = "NHWC"',
            "outputs.pooled.layout must be left out of an output",
        ),
        ('tensor = "pooled"', 'tensor = "pooled"\ngrid = [1, 2]', "outputs.pooled.grid must be left out of an output"),
        (
            'layout = "NHWC"',
            "prefix_tokens = 1",
            "outputs.features.prefix_tokens must be left out of an output without kind",
        ),
        ("grid = [14, 12]", "", "outputs.patches.grid is missing: the [rows, columns] of the tokens"),
        ('projection = "small"\n', "", "outputs.small.projection is missing: an output with source needs the name"),
        (
            'source = "pooled"',
            'source = "poled"',
            "outputs.white.source must be features, patches, pooled, small or white; got",
        ),
        ('source = "pooled"', 'source = "white"', 'outputs.white.source must be an output with tensor; got "white"'),
        ('source = "pooled"', 'source = "small"', 'outputs.white.source must be an output with tensor; got "small"'),
        (
            'source = "pooled"',
            'source = "pooled"\npool = "avg"',
            'outputs.white.pool must be left out: the source "pooled" is',
        ),
        ('pool = "avg"\n', "", 'outputs.small.pool must be avg or max, because the source "features" is a feature map'),
        (
            'projection = "white"',
            'projection = "wite"',
            'outputs.white.projection must be small or white; got "wite"; did you',
        ),
        (
            'projection = "white"',
            'projection = "small"',
            'projections.white is used by no output: add projection = "white"',
        ),
        # The head.
        (
            'output = "features"\nlabels',
            'output = "feature"\nlabels',
            "head.output must be features, patches, pooled, small or white;",
        ),
        (
            'output = "features"\nlabels',
            'output = "pooled"\nlabels',
            "head.output must be an output of kind map or tokens;",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(old: str, new: str, sentence: str) -> None:
    assert sentence in refusal(replaced(old, new))


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("[224, 224]", 'preprocessing.size must be [224, 192] with crop = "none", as the input; got [224, 224]'),
        ("224", 'preprocessing.size must be [height, width] with resize = "squash", such as [224, 224]'),
    ],
)
def test_without_a_crop_an_image_gets_the_size_of_the_input(size: str, sentence: str) -> None:
    content = replaced('resize = "shortest"\nsize = 256', f'resize = "squash"\nsize = {size}', '"center"', '"none"')
    assert sentence in refusal(content)


@pytest.mark.parametrize("size", ["[223, 192]", "[224, 191]"])
def test_a_squashed_image_must_cover_the_crop(size: str) -> None:
    content = replaced('resize = "shortest"\nsize = 256', f'resize = "squash"\nsize = {size}')
    assert refusal(content) == (
        f"preprocessing.size must be at least [224, 192], the input's, or images are padded; got {size}"
    )


def test_a_key_that_does_not_exist_and_is_near_none_is_to_be_removed() -> None:
    assert refusal(replaced("fill = 114", "zzz = 114")).endswith("mean, std: remove it or correct its name")


def test_a_gray_input_has_one_mean() -> None:
    content = replaced('color_mode = "RGB"\nchannel_order = "BGR"', 'color_mode = "GRAY"')
    assert refusal(content) == ("preprocessing.mean must have one number, because input.color_mode is GRAY; got 3")
