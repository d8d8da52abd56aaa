"""Pooling as pure functions on tensors: planes (P, *spatial) in, planes (P, *out) out, each plane on its own."""

from poolservice_server.pooling.operators import pool
from poolservice_server.pooling.stage import PoolStage

__all__ = ["PoolStage", "pool"]
