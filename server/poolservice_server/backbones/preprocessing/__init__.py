"""Turn decoded images into inputs of a backbone, with the pixels of the pipeline that the network was trained with.

The pipelines of torchvision, timm and Hugging Face resize with Pillow, crop, and normalize in float32. These functions
compute the same bits in less time. Nothing here imports torch.
"""

from poolservice_server.backbones.preprocessing.cost import preprocessing_cost
from poolservice_server.backbones.preprocessing.geometry import check_size, region
from poolservice_server.backbones.preprocessing.normalization import normalized
from poolservice_server.backbones.preprocessing.samples import to_samples

__all__ = ["check_size", "normalized", "preprocessing_cost", "region", "to_samples"]
