"""Read images through a torch DataLoader whose worker processes fetch features from the service.

    python torch_dataloader.py photo.jpg other.jpg

Needs a running server (`poolservice-server`) and torch. Without arguments, all images are photo.jpg in the current
folder.
"""

import sys
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from poolservice_client import GlobalAvgPool2d, PoolClient


class FeatureDataset(Dataset[torch.Tensor]):
    """The channel means of images, one vector per path."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
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
        return list(self._client.map(paths, GlobalAvgPool2d(), output="features", returns="torch"))


def main(paths: Sequence[str]) -> None:
    """Print the shape of each batch."""
    loader = DataLoader(FeatureDataset(paths), batch_size=8, num_workers=2)
    for batch in loader:
        print(tuple(batch.shape))


if __name__ == "__main__":
    main(sys.argv[1:] or ["photo.jpg"] * 40)
