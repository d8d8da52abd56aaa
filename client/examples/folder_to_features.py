"""Pool all images of a folder into a file of features, one row per image.

    python folder_to_features.py photos features.npz

Needs a running server (`poolservice-server`). By default, the folder is photos/ in the current folder and the output is
features.npz. The command `poolservice map` does the same and can resume an interrupted run.
"""

import sys
from pathlib import Path

import numpy as np

from poolservice_client import GlobalAvgPool2d, PoolClient, PoolError


def folder_to_features(folder: str, output: str) -> int:
    """Write the normalized channel means of all JPEG files below `folder`, and return their number.

    Raises:
        PoolError: an image cannot be pooled, or the server is unavailable.
    """
    paths = sorted(str(path) for path in Path(folder).glob("**/*.jpg"))
    with PoolClient() as client:
        vectors = list(client.map(paths, GlobalAvgPool2d(), output="features", normalize=True))
    np.savez(output, features=np.stack(vectors), paths=np.array(paths))
    return len(paths)


def main(folder: str = "photos", output: str = "features.npz") -> None:
    """Write the features of a folder and print how many there are."""
    if next(Path(folder).glob("**/*.jpg"), None) is None:
        sys.exit(f"there are no .jpg files in {folder}")
    print(f"{folder_to_features(folder, output)} images -> {output}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
