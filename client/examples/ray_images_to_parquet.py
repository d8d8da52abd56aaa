"""Write the features of a folder of images to Parquet files with Ray Data.

    python ray_images_to_parquet.py photos features --address dns:///pool:50051 --backbone mobilenetv2

Needs a running service (`poolservice-server`) and Ray (`pip install 'ray[data]'`). The workers of Ray read the files
and send them; the service computes. By default the features are the means of the channels. A file that is no image
gets no features, and the column "error" has the reason.
"""

import argparse
import sys

import ray

from poolservice_client import GlobalAvgPool2d, PoolError
from poolservice_client.ray import PoolBatches


def main(folder: str, output: str, address: str | None = None, backbone: str | None = None, workers: int = 2) -> None:
    """Write the path, the features and the error of each file of a folder."""
    pool = PoolBatches(
        address,
        GlobalAvgPool2d(),
        column="bytes",
        output="features",
        dtype="float16",
        backbone=backbone,
        on_error="null",
    )
    images = ray.data.read_binary_files(folder, include_paths=True)
    features = images.map_batches(pool, batch_size=64, compute=ray.data.TaskPoolStrategy(size=workers))
    features.drop_columns(["bytes"]).write_parquet(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the features of a folder of images to Parquet files.")
    parser.add_argument("folder", help="a folder of image files, on this machine or on shared storage")
    parser.add_argument("output", help="the folder for the Parquet files")
    parser.add_argument("--address", help="the address of the service; default: POOLSERVICE_ADDRESS")
    parser.add_argument("--backbone", help="a backbone of the service with a feature map as its default output")
    parser.add_argument("--workers", type=int, default=2, help="tasks of Ray that send images at the same time")
    try:
        main(**vars(parser.parse_args()))
    except PoolError as error:
        sys.exit(f"{error}")
