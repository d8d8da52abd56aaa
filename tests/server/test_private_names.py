"""The table of grpcio's private names: it is complete, it is compared, and without any one name the server serves."""

import ast
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server import grpc_adapter
from poolservice_server.grpc_adapter import private_names
from poolservice_server.grpc_adapter.private_names import TABLE, PrivateName
from poolservice_server.testing import Service

PROGRAM = Path(__file__).with_name("server_without_private_name.py")
VERSION = tuple(int(part) for part in grpc.__version__.split(".")[:2])

needs_all_names = pytest.mark.skipif(
    VERSION < private_names.FIRST_VERSION, reason="this grpcio lacks some of the names"
)
each_row = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])


@needs_all_names
def test_the_installed_grpcio_has_every_name() -> None:
    assert private_names.missing("multi_accept_server") == []
    assert private_names.missing("merging_event_loop") == []


@needs_all_names
def test_the_table_lists_every_private_name_in_use() -> None:
    (folder,) = grpc_adapter.__path__
    used = {name for file in Path(folder).glob("*.py") for name in used_names(file.read_text())}
    listed = {row.name for row in TABLE if row.user == "multi_accept_server"}
    assert used == {name for name in listed if not name.startswith("Server.")}


def used_names(source: str) -> set[str]:
    """Return the names of grpcio's private modules, and the members of AioServer, that Python code uses."""
    members = {name for name in dir(cygrpc.AioServer) if not name.startswith("__")}
    overridable = members - set(dir(grpc.aio.Server))
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("cygrpc", "_server"):
                names.add(node.attr)
            elif node.value.id == "self" and node.attr in overridable:
                names.add(f"AioServer.{node.attr}")
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "cygrpc.AioServer" for base in node.bases):
            methods = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
            names |= {f"AioServer.{name}" for name in methods & members}
    return names


@needs_all_names
@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row.parameters is not None],
    ids=[row.name for row in TABLE if row.parameters is not None],
)
def test_a_name_with_other_parameters_is_missing(monkeypatch: pytest.MonkeyPatch, row: PrivateName) -> None:
    module = import_module(row.module)
    changed = types.ModuleType(row.module)
    vars(changed).update(vars(module))
    owner, _, name = row.name.rpartition(".")
    if owner:
        setattr(changed, owner, type(owner, (), {**vars(getattr(module, owner)), name: other_parameters}))
    else:
        setattr(changed, name, other_parameters)
    monkeypatch.setattr(
        private_names, "import_module", lambda name: changed if name == row.module else import_module(name)
    )
    assert any(row.name in problem for problem in private_names.missing(row.user))


def other_parameters(_changed: object) -> None:
    """Take other parameters than any name of grpcio."""


@pytest.mark.slow
@needs_all_names
@each_row
def test_the_server_serves_without_any_one_name(
    start_server: Callable[..., Service], pool_small: Callable[[PoolServiceStub], float], row: PrivateName
) -> None:
    server = start_server(command=[sys.executable, str(PROGRAM)], env={"REMOVED": f"{row.module}:{row.name}"})
    with grpc.insecure_channel(server.address) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0
    assert f"{row.module} has no {row.name}" in server.log()
    assert ("serving with --plain-server" in server.log()) == (row.user == "multi_accept_server")
