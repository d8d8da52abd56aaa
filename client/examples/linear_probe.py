"""Train a linear classifier on the features of a backbone: a linear probe.

    python linear_probe.py labeled --backbone mobilenetv2

`labeled` has one folder of images for each class. Needs a running server with a backbone (`poolservice-server
--backbone FOLDER`). By default, the backbone is the first one of the server. Without a folder, the program draws images
of two classes, in bright and in dark colors.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import GlobalAvgPool2d, PoolClient, PoolError

Array = NDArray[Any]


class Dataset(NamedTuple):
    """Images with their classes.

    Attributes:
        classes: the names of the classes.
        paths: the images.
        labels: int64 (N,), the index of the class of each image.
    """

    classes: list[str]
    paths: list[str]
    labels: Array


def read_folder(folder: Path) -> Dataset:
    """Return the images below the folders of the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = [
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("**/*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    ]
    return Dataset(classes, [path for path, _ in found], np.array([label for _, label in found], np.int64))


def features_of(paths: Sequence[str], backbone: str | None) -> Array:
    """Return the features of images, (N, C): the means of the backbone's feature map, by its first backbone if None.

    Raises:
        PoolError: an image cannot be read, or the server is unavailable.
    """
    with PoolClient() as client:
        if backbone is None:
            backbones = client.server_info().backbones
            if not backbones:
                sys.exit("the server has no backbone; start it with --backbone FOLDER")
            backbone = backbones[0].name
        return np.stack(list(client.map(paths, GlobalAvgPool2d(), backbone=backbone, output="features")))


class LinearProbe:
    """Softmax regression, trained by gradient descent on standardized features."""

    def __init__(self, features: Array, labels: Array, classes: int, *, steps: int = 500, decay: float = 1e-3) -> None:
        self._mean = features.mean(axis=0)
        self._scale = features.std(axis=0) + 1e-6
        x = self._standardize(features)
        target = np.eye(classes)[labels]
        self._weight = np.zeros((x.shape[1], classes))
        self._bias = np.zeros(classes)
        for _ in range(steps):
            error = (self._probabilities(x) - target) / len(x)
            self._weight -= 0.5 * (x.T @ error + decay * self._weight)
            self._bias -= 0.5 * error.sum(axis=0)

    def predict(self, features: Array) -> Array:
        """Return the index of the most probable class for each row of features (N, C)."""
        return np.asarray(self._probabilities(self._standardize(features)).argmax(axis=1))

    def _standardize(self, features: Array) -> Array:
        return np.asarray((features.astype(np.float64) - self._mean) / self._scale)

    def _probabilities(self, x: Array) -> Array:
        logits = x @ self._weight + self._bias
        exponentials: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def draw_examples(folder: Path, count: int = 24) -> None:
    """Draw images of the classes "bright" and "dark" in folders of these names."""
    random = np.random.default_rng(0)
    for name, lowest in (("bright", 140), ("dark", 10)):
        (folder / name).mkdir()
        for number in range(count):
            pixels = random.integers(lowest, lowest + 100, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def accuracy(dataset: Dataset, backbone: str | None) -> tuple[float, int]:
    """Train on three of four images and return the accuracy on the fourth ones, and their number."""
    features = features_of(dataset.paths, backbone)
    # Shuffled, because the paths are sorted by class.
    order = np.random.default_rng(0).permutation(len(features))
    test, train = order[::4], np.delete(order, np.s_[::4])
    probe = LinearProbe(features[train], dataset.labels[train], len(dataset.classes))
    return float(np.mean(probe.predict(features[test]) == dataset.labels[test])), len(test)


def main(folder: str | None, backbone: str | None) -> None:
    """Print the accuracy of a probe that is trained on the images of a folder."""
    with tempfile.TemporaryDirectory() as drawn:
        if folder is None:
            draw_examples(Path(drawn))
        dataset = read_folder(Path(folder or drawn))
        if len(dataset.classes) < 2 or len(dataset.paths) < 8:
            sys.exit(f"{folder} needs a folder of images for each of at least two classes, and eight images or more")
        share, tested = accuracy(dataset, backbone)
    print(f"{len(dataset.classes)} classes, {len(dataset.paths)} images: accuracy {share:.1%} on {tested} images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a linear classifier on the features of a backbone.")
    parser.add_argument("folder", nargs="?", help="a folder with one folder of images for each class")
    parser.add_argument("--backbone", help="a backbone with a feature map as its default output")
    try:
        main(**vars(parser.parse_args()))
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
