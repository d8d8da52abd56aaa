"""Network architectures in plain torch, whose parameters have the names of published state dicts."""

from poolservice_server.backbones.engines.architectures.table import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
