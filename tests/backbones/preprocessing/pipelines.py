"""The preprocessing of real models, as a backbone's file describes it."""

from collections.abc import Mapping

from poolservice_server.backbones.manifest import Input, Preprocessing

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def _pipeline(
    height: int, width: int, values: Mapping[str, object], **preprocessing: object
) -> tuple[Input, Preprocessing]:
    return Input(height=height, width=width), Preprocessing.model_validate({**preprocessing, **values})


#: `generate_golden.py` builds the pipelines of the same names with torchvision, timm and transformers.
PIPELINES: Mapping[str, tuple[Input, Preprocessing]] = {
    "torchvision, resize 256, crop 224": _pipeline(224, 224, _IMAGENET, size=256),
    "torchvision, resize 232, crop 224": _pipeline(224, 224, _IMAGENET, size=232),
    "torchvision, bicubic": _pipeline(224, 224, _IMAGENET, size=256, filter="bicubic"),
    "torchvision, crop only": _pipeline(224, 224, _IMAGENET, resize="none"),
    "timm, crop_pct 0.875": _pipeline(224, 224, _IMAGENET, size=256, filter="bicubic"),
    "timm, crop_pct 0.9": _pipeline(224, 224, _IMAGENET, size=248, filter="bicubic"),
    "timm, crop_pct 1.0": _pipeline(224, 224, _HALF, size=224, filter="bicubic"),
    "timm, lanczos": _pipeline(160, 160, _IMAGENET, size=160, filter="lanczos"),
    "timm, 224 x 192": _pipeline(224, 192, _IMAGENET, size=(248, 213), filter="bicubic", rounding="round"),
    "timm, squash": _pipeline(224, 224, _IMAGENET, resize="squash", size=(235, 235), filter="bicubic"),
    "timm, border": _pipeline(
        224, 224, _IMAGENET, resize="longest", size=224, filter="bicubic", rounding="round", fill=(124, 116, 104)
    ),
    "ViTImageProcessor": _pipeline(224, 224, _HALF, resize="squash"),
    "CLIPImageProcessor": _pipeline(224, 224, _CLIP, size=224, filter="bicubic", crop_rounding="floor"),
    "CLIPImageProcessor, crop only": _pipeline(224, 224, _CLIP, resize="none", crop_rounding="floor"),
    "ConvNextImageProcessor, 224": _pipeline(224, 224, _HALF, size=256, filter="bicubic", crop_rounding="floor"),
    "ConvNextImageProcessor, 384": _pipeline(384, 384, _HALF, resize="squash", filter="bicubic"),
}
