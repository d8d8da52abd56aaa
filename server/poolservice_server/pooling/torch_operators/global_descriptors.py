"""Operators that reduce a sample to one unit vector with a value for each channel."""

import math
from typing import Any

import torch

from poolservice_server.pooling.torch_operators.alignment import aligned
from poolservice_server.pooling.torch_operators.weighted_sums import weighted_sums


def mac(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Maximum of each channel, as a unit vector: (N, C, *spatial) to (N, C).

    Source:
        Razavian, Sullivan, Carlsson and Maki, "Visual Instance Retrieval with Deep Convolutional Networks", 2014.
    """
    return unit(samples.flatten(2).amax(2))


def spoc(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of each channel, with an optional Gaussian around the center, as a unit vector: to (N, C).

    Source:
        Babenko and Lempitsky, "Aggregating Deep Convolutional Features for Image Retrieval", 2015.
    """
    values = samples.flatten(2)
    if not spec.center_prior:
        return unit(values.sum(2))
    spatial = samples.shape[2:]
    deviation = min(spatial) / 6
    prior = samples.new_ones(1)
    for size in spatial:
        distances = torch.arange(size, dtype=samples.dtype, device=samples.device) - (size - 1) / 2
        prior = torch.outer(prior, torch.exp(-0.5 * (distances / deviation) ** 2)).flatten()
    return unit(weighted_sums(aligned(values), prior.expand(len(values), -1)))


def crow(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Sum of each channel with weights of positions and channels, as a unit vector: to (N, C).

    Source:
        Kalantidis, Mellina and Osindero, "Cross-dimensional Weighting for Aggregated Deep Convolutional Features",
        2016.
    """
    values = aligned(samples).flatten(2)
    sums = values.sum(1)
    # Scaled to a largest sum of 1, whose powers do not overflow. To divide by the norm would scale the vector, which
    # becomes a unit vector, and could make the powers vanish. So the norm only decides where the definition gives NaN.
    sums = sums / _or_one(sums.abs().amax(1, keepdim=True))
    norm = sums.pow(spec.alpha).sum(1, keepdim=True).pow(1 / spec.alpha)
    of_positions = sums.pow(1 / spec.beta).masked_fill_(norm.isnan(), math.nan)
    # Ones of the dtype are added several times as fast as booleans.
    filled = torch.ne(values, 0, out=torch.empty_like(values)).mean(2)
    of_channels = torch.where(filled > 0, torch.log(filled.sum(1, keepdim=True) / filled), 0.0)
    return unit(weighted_sums(values, of_positions) * of_channels)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors (..., D) divided by their Euclidean norms; a zero vector stays zero."""
    # Scaled to a largest value of 1, whose squares do not overflow.
    least = torch.finfo(vectors.dtype).tiny
    scaled: torch.Tensor = vectors / torch.linalg.vector_norm(vectors, math.inf, -1, keepdim=True).clamp_(min=least)
    norms: torch.Tensor = torch.linalg.vector_norm(scaled, 2, -1, keepdim=True)
    return scaled / norms.clamp_(min=least)


def _or_one(divisors: torch.Tensor) -> torch.Tensor:
    return torch.where(divisors == 0, 1.0, divisors)
