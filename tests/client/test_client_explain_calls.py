"""Explanations of a real server with a tiny backbone, compared with the same network in numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.backbones.models import TinyBackbone, tiny_backbone
from tests.client.reference_network import NAME, assert_close, outputs, png, sample

from poolservice_client import AsyncPoolClient, InvalidRequest, PoolClient
from poolservice_server.testing import Service


@pytest.mark.parametrize("kind", ["image", "tensor"])
def test_the_mean_of_a_map_plus_the_bias_is_the_logit(
    backbone_client: PoolClient, mobilenetv2: TinyBackbone, kind: str
) -> None:
    x = png(5) if kind == "image" else sample(mobilenetv2, 5)
    explanation = backbone_client.explain(x, backbone=NAME, top=5)
    logits = outputs(mobilenetv2, 5)["logits"]
    assert explanation.indices.tolist() == np.argsort(-logits).tolist()
    assert_close(explanation.logits, np.sort(logits)[::-1])
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    assert_close(explanation.probabilities, probabilities[explanation.indices])
    labels = ("tench", "goldfish", "brambling", "magpie", "tabby")
    assert explanation.labels == tuple(labels[index] for index in explanation.indices)
    assert explanation.maps is not None
    means = explanation.maps.mean((1, 2)) + mobilenetv2.weights["head.bias"][explanation.indices]
    assert_close(means, explanation.logits)


def test_the_region_is_what_the_crop_keeps(backbone_client: PoolClient) -> None:
    # The shortest side, 72 pixels, becomes 36, and the crop keeps 32 x 32 in the middle: 64 x 64 pixels of the image.
    explanation = backbone_client.explain(Image.new("RGB", (144, 72), "red"), backbone=NAME)
    assert_close(explanation.region, (40, 4, 104, 68))
    heatmaps = explanation.heatmaps()
    assert heatmaps.shape == (3, 72, 144)
    assert not np.isnan(heatmaps[:, 4:68, 40:104]).any()
    assert np.isnan(heatmaps[:, :4]).all()
    assert np.isnan(heatmaps[:, :, :40]).all()


async def test_classes_by_index_and_by_name(backbone_address: str) -> None:
    with PoolClient(backbone_address) as client:
        chosen = client.explain(png(1), backbone=NAME, top=1, classes=["magpie", 0, "TABBY"], maps=False)
        assert chosen.indices.tolist()[1:] == [3, 0, 4]
        for classes, reason in ((["tabbi"], "no class 'tabbi'"), ([5], "5")):
            with pytest.raises(InvalidRequest, match=reason) as raised:
                client.explain(png(1), backbone=NAME, classes=classes)
            assert raised.value.field.startswith("classes")
    async with AsyncPoolClient(backbone_address) as asynchronous:
        again = await asynchronous.explain(png(1), backbone=NAME, top=1, classes=("magpie", 0, "tabby"))
    np.testing.assert_array_equal(again.logits, chosen.logits)


def test_a_name_of_several_classes_is_an_error_with_their_indices(
    start_server: Callable[..., Service], tmp_path: Path
) -> None:
    labels = ("crane", "tabby", "crane", "Maillot", "maillot", *["kite"] * 5)
    backbone = tiny_backbone(tmp_path / "named", name="named", classes=len(labels), labels=labels)
    with PoolClient(start_server("--backbone", str(backbone.path)).address) as client:
        for name, indices in (
            ("crane", "0 and 2"),
            ("CRANE", "0 and 2"),
            ("MAILLOT", "3 and 4"),
            ("kite", "5 and 6 and 7 and 8 and more"),
        ):
            reason = f"the classes {indices} have the name '{name}'; give the index"
            with pytest.raises(InvalidRequest, match=reason) as raised:
                client.explain(png(1), backbone="named", classes=[1, name])
            assert raised.value.field == "classes[1]"
        # Upper and lower case distinguish classes whose names differ in nothing else.
        chosen = client.explain(png(1), backbone="named", top=0, classes=[2, "maillot", "Maillot"], maps=False)
    assert chosen.indices.tolist() == [2, 4, 3]
