"""The classes of a backbone with a linear head, and the class activation maps that explain them."""

import numpy as np
import torch

from poolservice_server.backbone_stage import ClassChoice, ClassResult
from poolservice_server.backbones.engines.outputs import LinearMap


def logits(features: torch.Tensor, head: LinearMap) -> torch.Tensor:
    """Return the logits (N, K) of feature maps (N, C, H, W): the head takes the mean of each map."""
    return head.apply(features.mean((2, 3)))


def chosen_classes(scores: np.ndarray, choice: ClassChoice) -> np.ndarray:
    """Return the classes that a request asks for, int64: the best ones first, then the others in their order.

    Of equal logits, the lower class is the better one. No class is repeated.

    Args:
        scores: the logits of one sample, (K,).
        choice: what the request asks for.
    """
    best = np.argsort(-scores, kind="stable")[: choice.top]
    others = np.array([number for number in dict.fromkeys(choice.classes) if number not in best], np.int64)
    return np.concatenate((best, others))


def activation_maps(features: torch.Tensor, head: LinearMap, classes: torch.Tensor) -> torch.Tensor:
    r"""Return the class activation maps (k, H, W) of one sample's features (C, H, W).

    M_c(y, x) = \sum_k w_{c,k} f_k(y, x); the mean of M_c plus the bias of c is the logit of c (Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150).
    """
    return torch.mm(head.weight[classes], features.flatten(1)).reshape(-1, *features.shape[1:])


def class_result(scores: np.ndarray, classes: np.ndarray, maps: np.ndarray | None) -> ClassResult:
    """Return the result for the chosen classes of one sample.

    Args:
        scores: the logits, float32 (K,).
        classes: the chosen classes, int64 (k,).
        maps: the activation maps of these classes, float32 (k, H, W), or None.
    """
    powers = np.exp((scores - scores.max()).astype(np.float64))
    probabilities = (powers[classes] / powers.sum()).astype(np.float32)
    return ClassResult(classes, scores[classes], probabilities, maps)
