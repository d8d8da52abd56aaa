"""Write golden.json: hashes of the tensors that the reference pipelines make of the images in `image_files.py`.

    python tests/backbones/preprocessing/generate_golden.py

No test runs this. It needs torchvision, timm and transformers, and beside them this repository's packages:

    pip install torch torchvision timm transformers
    PYTHONPATH=.:protos:server python tests/backbones/preprocessing/generate_golden.py

golden.json names the versions that made it. Hugging Face's processors run with their Pillow backend.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from tests.backbones.preprocessing.image_files import FILES
from tests.backbones.preprocessing.pipelines import PIPELINES
from tests.backbones.preprocessing.reference import reference_image
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms._presets import ImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

Pipeline = Callable[[Image.Image], np.ndarray]


def _torchvision(transform: Callable[[Image.Image], object]) -> Pipeline:
    return lambda image: np.asarray(transform(image))


def _timm(size: int | tuple[int, int], **options: object) -> Pipeline:
    height, width = (size, size) if isinstance(size, int) else size
    return _torchvision(
        create_transform((3, height, width), **{"interpolation": "bicubic", "mean": _MEAN, "std": _STD, **options})
    )


def _hugging_face(processor: Callable[..., Mapping[str, np.ndarray]]) -> Pipeline:
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


REFERENCES: Mapping[str, Pipeline] = {
    "torchvision, resize 256, crop 224": _torchvision(ImageClassification(crop_size=224)),
    "torchvision, resize 232, crop 224": _torchvision(ImageClassification(crop_size=224, resize_size=232)),
    "torchvision, bicubic": _torchvision(ImageClassification(crop_size=224, interpolation=InterpolationMode.BICUBIC)),
    "torchvision, crop only": _torchvision(Compose([CenterCrop(224), ToTensor(), Normalize(_MEAN, _STD)])),
    "timm, crop_pct 0.875": _timm(224, crop_pct=0.875),
    "timm, crop_pct 0.9": _timm(224, crop_pct=0.9),
    "timm, crop_pct 1.0": _timm(224, crop_pct=1.0, mean=_HALF, std=_HALF),
    "timm, lanczos": _timm(160, crop_pct=1.0, interpolation="lanczos"),
    "timm, 224 x 192": _timm((224, 192), crop_pct=0.9),
    "timm, squash": _timm(224, crop_pct=0.95, crop_mode="squash"),
    "timm, border": _timm(224, crop_pct=1.0, crop_mode="border"),
    "ViTImageProcessor": _hugging_face(ViTImageProcessorPil()),
    "CLIPImageProcessor": _hugging_face(CLIPImageProcessorPil()),
    "CLIPImageProcessor, crop only": _hugging_face(CLIPImageProcessorPil(do_resize=False)),
    "ConvNextImageProcessor, 224": _hugging_face(ConvNextImageProcessorPil(size={"shortest_edge": 224})),
    "ConvNextImageProcessor, 384": _hugging_face(ConvNextImageProcessorPil()),
}


def main() -> None:
    """Write golden.json beside this file."""
    images = {name: reference_image(file(), "RGB") for name, file in FILES.items()}
    golden = {
        "versions": {
            name: version(name) for name in ("torch", "torchvision", "timm", "transformers", "pillow", "numpy")
        },
        "sha256": {
            pipeline: {
                name: sha256(np.ascontiguousarray(REFERENCES[pipeline](image), np.float32).tobytes()).hexdigest()[:32]
                for name, image in images.items()
            }
            for pipeline in PIPELINES
        },
    }
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
