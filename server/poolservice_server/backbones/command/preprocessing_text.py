"""Describes a preprocessing in one line."""

from poolservice_server.backbones.manifest import Input, Preprocessing


def preprocessing_text(input: Input, preprocessing: Preprocessing) -> str:
    """Return the steps of a preprocessing, such as "shortest side to 256 by bilinear, center 224x224, ..."."""
    smooth = "" if preprocessing.antialias else " without antialiasing"
    size = preprocessing.size
    target = f"{size[0]}x{size[1]}" if isinstance(size, tuple) else size
    resize = {
        "shortest": f"shortest side to {target} by {preprocessing.filter}{smooth}",
        "longest": f"longest side to {target} by {preprocessing.filter}{smooth}",
        "squash": f"both sides to {target or f'{input.height}x{input.width}'} by {preprocessing.filter}{smooth}",
        "none": "no resizing",
    }[preprocessing.resize]
    crop = f"center {input.height}x{input.width}" if preprocessing.crop == "center" else "no crop"
    order = input.channel_order if input.color_mode == "RGB" else input.color_mode
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f"{resize}, {crop}, {order}, (value * {preprocessing.scale:g} - [{mean}]) / [{std}]"
