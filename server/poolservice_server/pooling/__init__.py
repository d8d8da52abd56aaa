"""Pooling as pure functions on tensors: planes (P, *spatial) in, planes (P, *out) out, each plane on its own."""

from poolservice_server.pooling.stage import PoolStage
from poolservice_server.pooling.torch_operators.dispatch import pool

__all__ = ["PoolStage", "pool"]
