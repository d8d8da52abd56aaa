"""The table [parameters] of `head.toml` for each kind of head."""

from typing import Annotated, Literal

from pydantic import Field

from poolservice_server.backbones.manifest_tables import Table
from poolservice_server.backbones.manifest_values import Flag, Number, Side, Whole

_Heads = Annotated[Whole, Field(ge=1, le=1024)]
_Epsilon = Annotated[Number, Field(gt=0, le=1)]


class ClipAttentionPool(Table):
    """The parameters of CLIP's AttentionPool2d."""

    num_heads: _Heads = Field(description="number of attention heads, which divides the number of channels")


class SiglipMap(Table):
    """The parameters of SigLIP's attention head."""

    num_heads: _Heads = Field(description="number of attention heads, which divides the number of channels")
    activation: Literal["gelu_tanh", "gelu"] = Field(default="gelu_tanh", description="activation of the MLP")
    layer_norm_eps: _Epsilon = Field(default=1e-6, description="epsilon of the layer normalization")


class SimPool(Table):
    """The parameters of SimPool."""

    num_heads: _Heads = Field(default=1, description="number of attention heads, which divides the number of channels")
    gamma: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        default=None, description="exponent of the power mean; without it, the mean"
    )
    layer_norm_eps: _Epsilon = Field(default=1e-6, description="epsilon of the layer normalization")


class NetVlad(Table):
    """The parameters of NetVLAD."""

    normalize_input: Flag = Field(default=True, description="whether each position is normalized first")


class MixVpr(Table):
    """The parameters of MixVPR."""

    height: Side = Field(description="height of the feature map")
    width: Side = Field(description="width of the feature map")
    mix_depth: Annotated[Whole, Field(ge=1, le=64)] = Field(default=1, description="number of feature mixers")
    layer_norm_eps: _Epsilon = Field(default=1e-5, description="epsilon of the layer normalization")


class Salad(Table):
    """The parameters of SALAD."""

    token: Literal["first", "mean", "none"] = Field(
        description="the global token: first, the first position in row-major order; mean, the mean of the positions; "
        "or none, which leaves its part of the vector out"
    )
    iterations: Annotated[Whole, Field(ge=1, le=100)] = Field(default=3, description="iterations of Sinkhorn")


class GatedAttention(Table):
    """Gated attention has no parameters."""


class PcaWhitening(Table):
    """The parameters of PCA whitening."""

    normalize: Flag = Field(default=False, description="whether the result is normalized to Euclidean norm 1")
