"""The pixels and the values of torchvision's, timm's and Hugging Face's own pipelines; see `generate_golden.py`."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from tests.backbones.preprocessing.image_files import FILES
from tests.backbones.preprocessing.pipelines import PIPELINES

from poolservice_server.backbones.preprocessing import normalized, to_samples
from poolservice_server.images import decode

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())["sha256"]


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("image", FILES)
def test_the_values_are_those_of_the_reference_pipeline(pipeline: str, image: str) -> None:
    backbone_input, preprocessing = PIPELINES[pipeline]
    samples = to_samples(decode(FILES[image](), "RGB", max_pixels=2**20), backbone_input, preprocessing)
    values = normalized(samples, preprocessing)
    assert sha256(values.tobytes()).hexdigest()[:32] == GOLDEN[pipeline][image]
