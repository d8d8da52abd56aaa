"""PoolHead2d: a pool head of the server, with learned weights."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values
from poolservice.specs.validation import shown

#: The longest name: those of a backbone and of a head, and a slash.
MAX_NAME = 129


@dataclass(frozen=True, repr=False)
class _PoolHead(SampleSpec[Values]):
    """Vector that a pool head of the server computes with learned weights.

    The server lists its heads, with their kinds and shapes, in `server_info`. With x(p) the vector of the channels at
    position p and softmax over positions, if nothing else is said, the kinds are:

    - clip_attention_pool: attention of the mean over the positions and itself, with a learned position embedding, so
      the grid is fixed (Radford et al., 2021).
    - siglip_map: attention of a learned probe over the positions, then layer normalization and an MLP with a residual
      connection (Zhai et al., 2023).
    - simpool: attention of the mean over the layer-normalized positions; with gamma, a power mean (Psomas et al.,
      2023).
    - netvlad: for each cluster k, sum over p of softmax over k (w(k) . x(p) + b(k)) * (x(p) - c(k)); the sums are
      normalized to Euclidean norm 1 each and together (Arandjelović et al., 2016).
    - mixvpr: MLPs over the positions of each channel, then projections of channels and positions; of a fixed grid
      (Ali-bey, Chaib-draa and Giguère, 2023).
    - salad: as netvlad without c(k), with features and scores from MLPs, and weights from optimal transport with a
      dustbin (Izquierdo and Civera, 2024).
    - gated_attention: sum over p of softmax(w . (tanh(V x(p)) * sigmoid(U x(p)))) * x(p) (Ilse et al., 2018).
    - pca_whitening: (x - mean) . components / sqrt(variance), of one vector x.

    Shape: (C, H, W) or (N, C, H, W) to (D,) or (N, D), with the C and D of the head, and its H and W if they are
    fixed. In a `Sequential`, a pca_whitening may follow a layer that gives vectors (D,), and otherwise takes (C, 1, 1).

    Range: the values are computed in float32 and must be in its range, with their powers and sums. A softmax magnifies
    the rounding errors of its scores by their size, so heads are less precise for values that are much larger than
    those that they were trained with. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in some or all values of its sample's result. An infinity may do so.

    Args:
        name: the name of the head in `server_info`: "NAME", or "BACKBONE/NAME" of a head in a backbone's folder.
            Required.

    Raises:
        InvalidRequest: a parameter is invalid, or the server has no such head; `field` is its name.

    Source: the publications above, and the code of their authors.
    """

    operator: ClassVar[str] = "pool_head"
    takes_vectors: ClassVar[bool] = True
    name: str

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
            raise InvalidRequest(
                f"must be the name of a head of the server, of 1 to {MAX_NAME} characters; got {shown(name)}",
                field="name",
            )

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Refuse: only a server that has the head knows the shape of its result."""
        raise InvalidRequest("is the name of a head that only a server can resolve", field="name")


class PoolHead2d(_PoolHead):
    """Vector that a pool head of the server computes with learned weights."""

    spatial_dims = 2
