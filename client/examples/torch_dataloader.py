"""Read images through a torch DataLoader whose worker processes fetch features from the service.

    python torch_dataloader.py photo.jpg other.jpg --backbone mobilenetv2

Needs a running server (`poolservice-server`) and torch. Without arguments, all images are photo.jpg in the current
folder, and their features are the means of their channels.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from poolservice_client import GlobalAvgPool2d, PoolClient, PoolError


class FeatureDataset(Dataset[torch.Tensor]):
    """The features of images, one vector per path: the means of a backbone's feature map, or else of the image."""

    def __init__(self, paths: Sequence[str], backbone: str | None = None) -> None:
        self.paths = paths
        self.backbone = backbone
        self._client: PoolClient | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one vector."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Return the vectors of a batch. DataLoader prefers this method, which lets `map` send the batch at once."""
        if self._client is None:
            # Created here and not in __init__, so that each worker process has its own client.
            self._client = PoolClient()
        paths = [self.paths[index] for index in indices]
        rows = self._client.map(paths, GlobalAvgPool2d(), backbone=self.backbone, output="features", returns="torch")
        return list(rows)


def main(paths: Sequence[str], backbone: str | None = None) -> None:
    """Print the shape of each batch."""
    with PoolClient() as client:
        # A wrong backbone fails here with one sentence. In a worker process, the DataLoader would add tracebacks to it.
        client.pool(paths[0], GlobalAvgPool2d(), backbone=backbone)
    loader = DataLoader(FeatureDataset(paths, backbone), batch_size=8, num_workers=2)
    for batch in loader:
        print(tuple(batch.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read images through a torch DataLoader.")
    parser.add_argument("paths", nargs="*", default=["photo.jpg"] * 40)
    parser.add_argument("--backbone", help="a backbone of the server with a feature map as its default output")
    try:
        main(**vars(parser.parse_args()))
    except (OSError, PoolError) as error:
        sys.exit(f"{error}")
