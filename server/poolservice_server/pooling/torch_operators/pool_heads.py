"""Pool heads: pooling with learned weights, from samples (N, C, H, W) to vectors (N, D) in float32.

In all formulas, x(p) is the vector of the channels at position p. A query attends to positions without their keys and
values: the keys' weights are applied to the query, and the values' weights to the weighted sums of the positions. With
one query, that is H * C multiplications per position and H attention heads instead of 2 * C * C. The keys' bias adds
the same to all scores of an attention head, which softmax ignores.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F

from poolservice_server.pooling.interop import to_tensor
from poolservice_server.pooling.torch_operators.alignment import aligned

Weights = Mapping[str, torch.Tensor]

_SIMPOOL_EPSILON = 1e-6

# The weights on each device, by the head's fingerprint.
_WEIGHTS: dict[tuple[str, torch.device], Weights] = {}


def pool_head(samples: torch.Tensor, spec: Any) -> torch.Tensor:
    """Vector of each sample that a head of the server computes: (N, C, H, W), or (N, C) of PCA, to (N, D).

    Source:
        The publications of the kinds, see `FUNCTIONS`.
    """
    weights = _weights_on(samples.device, spec.head)
    return FUNCTIONS[spec.head.kind](weights, spec.head.parameters, aligned(samples.to(torch.float32)))


def _weights_on(device: torch.device, head: Any) -> Weights:
    key = (head.fingerprint, device)
    weights = _WEIGHTS.get(key)
    if weights is None:
        # Two threads may copy the weights at the same time; both copies are right, and the last one stays.
        weights = {name: to_tensor(weight).to(device) for name, weight in head.weights.items()}
        _WEIGHTS[key] = weights
    return weights


def clip_attention_pool(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Attention of the mean over itself and the positions, all with position embeddings.

    Source:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
    """
    positions = samples.flatten(2)
    positions = torch.cat([positions.mean(2, keepdim=True), positions], 2) + weights["positional_embedding"].T
    query = F.linear(positions[:, :, 0], weights["q_proj.weight"], weights["q_proj.bias"])
    values = _attend(query, weights["k_proj.weight"], weights["v_proj.weight"], positions, parameters.num_heads)
    return F.linear(values + weights["v_proj.bias"], weights["c_proj.weight"], weights["c_proj.bias"])


def siglip_map(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Attention of a learned probe over the positions, then x + MLP(layer normalization of x).

    Source:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023; Lee et al., "Set Transformer", 2019.
    """
    positions = samples.flatten(2)
    q_weight, k_weight, v_weight = weights["attention.in_proj_weight"].chunk(3)
    q_bias, _, v_bias = weights["attention.in_proj_bias"].chunk(3)
    query = F.linear(weights["probe"][0], q_weight, q_bias).expand(len(samples), -1)
    values = _attend(query, k_weight, v_weight, positions, parameters.num_heads) + v_bias
    result = F.linear(values, weights["attention.out_proj.weight"], weights["attention.out_proj.bias"])
    normalized = F.layer_norm(
        result, result.shape[1:], weights["layernorm.weight"], weights["layernorm.bias"], parameters.layer_norm_eps
    )
    hidden = F.gelu(
        F.linear(normalized, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]),
        approximate="tanh" if parameters.activation == "gelu_tanh" else "none",
    )
    return result + F.linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def simpool(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Attention of the mean over the layer-normalized positions; with gamma, the power mean of their values.

    Before the power, the least value of the sample is subtracted. The authors' code subtracts that of the batch, timm
    that of each channel.

    Source:
        Psomas et al., "Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?", 2023.
    """
    positions = samples.flatten(2)
    query = F.linear(positions.mean(2), weights["wq.weight"], weights.get("wq.bias"))
    scale, shift = weights["norm_patches.weight"], weights["norm_patches.bias"]
    normalized = F.layer_norm(positions.mT, positions.shape[1:2], scale, shift, parameters.layer_norm_eps).mT
    gamma, heads = parameters.gamma, parameters.num_heads
    values = normalized
    if gamma is not None:
        values = (normalized - normalized.amin((1, 2), keepdim=True) + _SIMPOOL_EPSILON).pow(gamma)
    attention = _attention(query, weights["wk.weight"], normalized, heads)
    # Each attention head takes the sums of its own channels.
    count, channels = query.shape
    of_heads = values.reshape(count, heads, channels // heads, -1)
    result = (of_heads @ attention.unsqueeze(3)).reshape(count, channels)
    if gamma is None:
        return result
    result = result.pow(1 / gamma)
    return result + weights["beta"] if "beta" in weights else result


def gated_attention(weights: Weights, _parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Sum of softmax(w . (tanh(V x(p)) * sigmoid(U x(p)))) * x(p), for each branch w one after the other.

    Source:
        Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", 2018.
    """
    positions = samples.flatten(2)
    gated = _pointwise(positions, weights, "attention_V.0").tanh_()
    gated = gated.mul_(_pointwise(positions, weights, "attention_U.0").sigmoid_())
    scores = _pointwise(gated, weights, "attention_w").softmax(2)
    return (scores @ positions.mT).flatten(1)


def netvlad(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Sums of the residuals to each cluster's center, weighted by the softmax over clusters, normalized each and all.

    Source:
        Arandjelović et al., "NetVLAD: CNN Architecture for Weakly Supervised Place Recognition", 2016.
    """
    positions = samples.flatten(2)
    if parameters.normalize_input:
        positions = F.normalize(positions, dim=1)
    scores = weights["conv.weight"].flatten(1) @ positions
    if "conv.bias" in weights:
        scores = scores + weights["conv.bias"][:, None]
    assigned = scores.softmax(1)
    residuals = assigned @ positions.mT - assigned.sum(2, keepdim=True) * weights["centroids"]
    return F.normalize(F.normalize(residuals, dim=2).flatten(1), dim=1)


def mixvpr(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Mixers, x + MLP(layer normalization of x) over the positions of each channel, then two projections; normalized.

    Source:
        Ali-bey, Chaib-draa and Giguère, "MixVPR: Feature Mixing for Visual Place Recognition", 2023.
    """
    positions = samples.flatten(2)
    for number in range(parameters.mix_depth):
        norm, first, second = (f"mix.{number}.mix.{layer}" for layer in (0, 1, 3))
        normalized = F.layer_norm(
            positions,
            positions.shape[2:],
            weights[f"{norm}.weight"],
            weights[f"{norm}.bias"],
            parameters.layer_norm_eps,
        )
        hidden = F.linear(normalized, weights[f"{first}.weight"], weights[f"{first}.bias"]).relu_()
        positions = positions + F.linear(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])
    channels = _pointwise(positions, weights, "channel_proj")
    rows = F.linear(channels, weights["row_proj.weight"], weights["row_proj.bias"])
    return F.normalize(rows.flatten(1), dim=1)


def salad(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """Sums of features weighted by their optimal transport to clusters and a dustbin, normalized, behind the token.

    Source:
        Izquierdo and Civera, "Optimal Transport Aggregation for Visual Place Recognition", 2024.
    """
    positions, kind = samples.flatten(2), parameters.token
    token = positions[:, :, 0] if kind == "first" else positions.mean(2)
    if kind == "first":
        positions = positions[:, :, 1:]
    features = _pointwise(_pointwise(positions, weights, "cluster_features.0").relu_(), weights, "cluster_features.3")
    scores = _pointwise(_pointwise(positions, weights, "score.0").relu_(), weights, "score.3")
    transported = _transport(scores, weights["dust_bin"], parameters.iterations)
    parts = [F.normalize(features @ transported.mT, dim=1).flatten(1)]
    if kind != "none":
        hidden = F.linear(token, weights["token_features.0.weight"], weights["token_features.0.bias"]).relu_()
        described = F.linear(hidden, weights["token_features.2.weight"], weights["token_features.2.bias"])
        parts.insert(0, F.normalize(described, dim=1))
    return F.normalize(torch.cat(parts, 1), dim=1)


def pca_whitening(weights: Weights, parameters: Any, samples: torch.Tensor) -> torch.Tensor:
    """(x - mean) @ components.T / sqrt(variance) of a vector x, normalized if the parameters say so.

    Source:
        Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening",
        2012.
    """
    centered = samples.flatten(1) - weights["mean"]
    whitened = F.linear(centered, weights["components"]) / weights["variance"].sqrt()
    return F.normalize(whitened, dim=1) if parameters.normalize else whitened


def _attention(query: torch.Tensor, key_weight: torch.Tensor, positions: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the attention (N, H, P) of a query to positions.

    Args:
        query: (N, C), with its bias.
        key_weight: (C, C), of the keys.
        positions: (N, C, P), of which the keys are.
        heads: H, among which the channels of queries and keys are divided.
    """
    count, channels = query.shape
    size = channels // heads
    of_heads = (query / math.sqrt(size)).reshape(count, heads, size).transpose(0, 1)
    weighted = torch.bmm(of_heads, key_weight.reshape(heads, size, channels)).transpose(0, 1)
    return torch.bmm(weighted, positions).softmax(2)


def _attend(
    query: torch.Tensor, key_weight: torch.Tensor, value_weight: torch.Tensor, positions: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return the values (N, C), without their bias, of the positions to which a query attends."""
    count, channels = query.shape
    sums = torch.bmm(_attention(query, key_weight, positions, heads), positions.mT)
    weight = value_weight.reshape(heads, channels // heads, channels)
    return torch.bmm(sums.transpose(0, 1), weight.mT).transpose(0, 1).reshape(count, channels)


def _pointwise(positions: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    """Apply a linear layer, or a convolution with a kernel of 1, to each position: (N, C, P) to (N, D, P)."""
    weight, bias = weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"]
    return torch.baddbmm(bias[:, None], weight.expand(len(positions), *weight.shape), positions)


def _transport(scores: torch.Tensor, dust_bin: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return the transport of P positions to K clusters (N, K, P), without the dustbin's, by Sinkhorn's iterations.

    Each position has the mass 1, each cluster 1, and the dustbin P - K.
    """
    count, clusters, positions = scores.shape
    augmented = torch.cat([scores, dust_bin.expand(count, 1, positions)], 1)
    norm = -math.log(clusters + positions)
    log_clusters = scores.new_full((clusters + 1,), norm)
    log_clusters[-1] += math.log(positions - clusters)
    columns = scores.new_zeros((count, positions))
    for _ in range(iterations):
        rows = log_clusters - torch.logsumexp(augmented + columns.unsqueeze(1), 2)
        columns = norm - torch.logsumexp(augmented + rows.unsqueeze(2), 1)
    return (augmented + rows.unsqueeze(2) + columns.unsqueeze(1) - norm)[:, :-1].exp()


#: By the kind of head.
FUNCTIONS: Mapping[str, Callable[[Weights, Any, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "clip_attention_pool": clip_attention_pool,
        "siglip_map": siglip_map,
        "simpool": simpool,
        "gated_attention": gated_attention,
        "netvlad": netvlad,
        "mixvpr": mixvpr,
        "salad": salad,
        "pca_whitening": pca_whitening,
    }
)
