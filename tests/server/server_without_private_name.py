"""Runs poolservice-server as if grpcio lacked one private name.

    REMOVED=grpc._cython.cygrpc:_handle_rpc python tests/server/server_without_private_name.py FLAGS...

The server's modules see a copy of grpcio's module without the name. grpcio's own modules keep the original. Worker
processes import this file as well, so they see the same.
"""

import os
import sys
import types
from importlib import import_module
from typing import Any

# grpcio's own modules, imported before a name is removed.
import grpc.aio  # noqa: F401
import grpc_health.v1.health  # noqa: F401
import grpc_reflection.v1alpha.reflection  # noqa: F401
from grpc._cython import cygrpc

from poolservice_server.__main__ import main


def set_only_loop(self: Any, *_arguments: object) -> None:
    """Construct a server that lacks `_server`."""
    self._loop = cygrpc.get_working_loop()
    cygrpc.AioServer()


def set_only_server(self: Any, *_arguments: object) -> None:
    """Construct a server that lacks `_loop`."""
    self._server = cygrpc.AioServer()


CONSTRUCTORS = {"Server._loop": set_only_server, "Server._server": set_only_loop}


def copy_without(name: str, module: types.ModuleType) -> types.ModuleType:
    """Return a copy of `module` that lacks `name`; after a dot, `name` has an attribute of a class."""
    copy = types.ModuleType(module.__name__)
    vars(copy).update(vars(module))
    owner, _, attribute = name.rpartition(".")
    if name in CONSTRUCTORS:
        setattr(copy, owner, type(owner, (), {"__init__": CONSTRUCTORS[name]}))
    elif owner:
        original = vars(getattr(module, owner))
        members = {key: value for key, value in original.items() if key != attribute and not key.startswith("__")}
        setattr(copy, owner, type(owner, (), members))
    else:
        delattr(copy, name)
    return copy


def remove(module_name: str, name: str) -> None:
    """Replace a module of grpcio by a copy that lacks `name`."""
    copy = copy_without(name, import_module(module_name))
    package, _, module = module_name.rpartition(".")
    sys.modules[module_name] = copy
    setattr(import_module(package), module, copy)


remove(*os.environ["REMOVED"].split(":"))
if __name__ == "__main__":
    sys.exit(main())
