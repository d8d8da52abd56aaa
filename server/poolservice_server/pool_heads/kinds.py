"""The table of the kinds of pool heads. `pooling.torch_operators.pool_heads` has the function of each."""

from collections.abc import Mapping
from types import MappingProxyType

from poolservice_server.pool_heads import aggregation_kinds, attention_kinds
from poolservice_server.pool_heads.kind import Kind

#: By the key `kind` in `head.toml`.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "clip_attention_pool": attention_kinds.CLIP_ATTENTION_POOL,
        "siglip_map": attention_kinds.SIGLIP_MAP,
        "simpool": attention_kinds.SIMPOOL,
        "gated_attention": attention_kinds.GATED_ATTENTION,
        "netvlad": aggregation_kinds.NETVLAD,
        "mixvpr": aggregation_kinds.MIXVPR,
        "salad": aggregation_kinds.SALAD,
        "pca_whitening": aggregation_kinds.PCA_WHITENING,
    }
)
