"""Pool one image with two layers in one call, and print the results.

    python one_call.py photo.jpg

Needs a running server (`poolservice-server`); the variable POOLSERVICE_ADDRESS sets another address than
localhost:50051. Without an argument, the image is photo.jpg in the current folder.
"""

import sys

from poolservice_client import GlobalAvgPool2d, MaxPool2d, PoolClient, PoolError


def main(path: str) -> None:
    """Print the shape of the pooled image and the mean of each channel."""
    with PoolClient() as client:
        # The server decodes the image once and pools it twice.
        pooled, means = client.pool(path, [MaxPool2d(8), GlobalAvgPool2d()])
    print(f"{path}: max pooled to {pooled.shape}, channel means {means.ravel()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "photo.jpg")
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
