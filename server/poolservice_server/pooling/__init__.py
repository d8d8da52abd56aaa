"""Pooling as pure functions: planes (P, *spatial) in, planes (P, *out) out, each plane pooled independently."""

from poolservice_server.pooling.dispatch import pool
from poolservice_server.pooling.run_stage import run_on_arrays, run_on_tensors

__all__ = ["pool", "run_on_arrays", "run_on_tensors"]
