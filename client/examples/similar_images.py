"""Find the images of a folder that are most similar to an image, by the features of a backbone.

    python similar_images.py photos photo.jpg --backbone mobilenetv2

Needs a running server with a backbone (`poolservice-server --backbone FOLDER`). By default, the folder is photos/ and
the image is photo.jpg in the current folder, and the backbone is the first one of the server. With --figure, the images
are drawn, which needs matplotlib.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolservice_client import GlobalAvgPool2d, InvalidRequest, PoolClient, PoolError


class ImageIndex:
    """The features of images. Each is a vector of length 1, so the product of two is their cosine similarity."""

    def __init__(self, client: PoolClient, backbone: str) -> None:
        self.paths: list[str] = []
        self._client = client
        self._backbone = backbone
        self._features: list[NDArray[Any]] = []

    def add(self, paths: Sequence[str]) -> list[str]:
        """Add images, and return the paths of those that could not be read.

        Raises:
            PoolError: the server has no such backbone, or is unavailable.
        """
        failed = []
        for item in self._map(paths):
            if item.error is None:
                self.paths.append(item.input)
                self._features.append(item.result)
            elif isinstance(item.error, InvalidRequest) and item.error.field == "x":
                failed.append(item.input)
            else:
                raise item.error
        return failed

    def nearest(self, path: str, count: int) -> list[tuple[float, str]]:
        """Return the similarity and the path of the images that are most similar to one, the nearest first.

        Raises:
            PoolError: the image cannot be read, or the server is unavailable.
        """
        (query,) = self._map([path])
        if query.error is not None:
            raise query.error
        similarities = np.stack(self._features) @ query.result
        order = np.argsort(-similarities, kind="stable")[:count]
        return [(float(similarities[row]), self.paths[row]) for row in order]

    def _map(self, paths: Sequence[str]) -> Iterable[Any]:
        """Yield an item with the feature of each image: the mean of each channel of the backbone's feature map."""
        return self._client.map(
            paths, GlobalAvgPool2d(), backbone=self._backbone, output="features", normalize=True, items=True
        )


def draw(figure: str, query: str, nearest: Sequence[tuple[float, str]]) -> None:
    """Draw the query and its nearest images side by side."""
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps

    titles = [f"{query}", *(f"{path}\n{similarity:.3f}" for similarity, path in nearest)]
    panels = Figure(figsize=(2.4 * len(titles), 2.8), layout="constrained")
    for axes, title, path in zip(
        panels.subplots(1, len(titles), squeeze=False)[0], titles, [query, *(path for _, path in nearest)], strict=True
    ):
        with Image.open(path) as image:
            axes.imshow(ImageOps.exif_transpose(image).convert("RGB"))
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_axis_off()
    panels.savefig(figure)


def main(folder: str, query: str, backbone: str | None, count: int, figure: str | None) -> None:
    """Print the images that are most similar to the query, and draw them if there is a figure."""
    paths = sorted(str(path) for path in Path(folder).glob("**/*.jpg"))
    if not paths:
        sys.exit(f"there are no .jpg files in {folder}")
    with PoolClient() as client:
        if backbone is None:
            backbones = client.server_info().backbones
            if not backbones:
                sys.exit("the server has no backbone; start it with --backbone FOLDER")
            backbone = backbones[0].name
        index = ImageIndex(client, backbone)
        for failed in index.add(paths):
            print(f"{failed} cannot be read", file=sys.stderr)
        if not index.paths:
            sys.exit(f"none of the images in {folder} can be read")
        nearest = index.nearest(query, count)
    print(f"{len(index.paths)} images by {backbone}; the nearest to {query}:")
    for similarity, path in nearest:
        print(f"{similarity:.4f}  {path}")
    if figure is not None:
        draw(figure, query, nearest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find the images of a folder that are most similar to an image.")
    parser.add_argument("folder", nargs="?", default="photos")
    parser.add_argument("query", nargs="?", default="photo.jpg")
    parser.add_argument("--backbone", help="a backbone with a feature map as its default output")
    parser.add_argument("--count", type=int, default=5, help="how many images are printed")
    parser.add_argument("--figure", help="draw the images in this file, such as nearest.png")
    try:
        main(**vars(parser.parse_args()))
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
