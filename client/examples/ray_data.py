"""Add features to a Ray Data dataset of image paths.

    python ray_data.py 'photos/*.jpg' features --backbone mobilenetv2

Needs a running server (`poolservice-server`) and Ray (`pip install 'ray[data]'`). By default, the images are those of
photos/ in the current folder, their features are the means of their channels, and the Parquet files are written to the
folder features/. If Ray is missing, the program says so and maps the paths in one batch in this process, without a
file.
"""

import argparse
import glob
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolservice_client import GlobalAvgPool2d, PoolClient, PoolError

Batch = dict[str, NDArray[Any]]


class AddFeatures:
    """A callable for `Dataset.map_batches`: adds the column "features" to batches with a column "path".

    Ray creates one object per actor, so each actor has one client.
    """

    def __init__(self, address: str | None = None, backbone: str | None = None) -> None:
        self.client = PoolClient(address)
        self.backbone = backbone

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with a float16 vector for each path."""
        vectors = self.client.map(
            batch["path"], GlobalAvgPool2d(), backbone=self.backbone, output="features", dtype="float16"
        )
        return {**batch, "features": np.stack(list(vectors))}


def main(pattern: str = "photos/*.jpg", output: str = "features", backbone: str | None = None) -> None:
    """Write the features of all matching images."""
    # Absolute, because the actors may run in another folder.
    paths = sorted(os.path.abspath(path) for path in glob.glob(pattern))
    if not paths:
        sys.exit(f"no file matches {pattern}")
    try:
        import ray
    except ImportError:
        print("Ray is not installed (pip install 'ray[data]'), so the paths are mapped in this process.")
        added = AddFeatures(backbone=backbone)({"path": np.array(paths)})
        print(f"features of shape {added['features'].shape}")
        return
    dataset = ray.data.from_items([{"path": path} for path in paths])
    dataset.map_batches(
        AddFeatures, fn_constructor_kwargs={"backbone": backbone}, concurrency=2, batch_size=256
    ).write_parquet(output)
    print(f"{len(paths)} images -> {output}/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Add features to a Ray Data dataset of image paths.")
    parser.add_argument("pattern", nargs="?", default="photos/*.jpg")
    parser.add_argument("output", nargs="?", default="features")
    parser.add_argument("--backbone", help="a backbone of the server with a feature map as its default output")
    try:
        main(**vars(parser.parse_args()))
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
