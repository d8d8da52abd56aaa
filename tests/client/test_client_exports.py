"""The public names of poolservice_client, and what importing it loads."""

import subprocess
import sys

import poolservice.errors
import poolservice.specs
import poolservice_client
from poolservice_client import errors


def test_all_public_names_are_exported() -> None:
    layers = {layer.__name__ for layer in poolservice.specs.LAYERS.values()}
    assert len(layers) == len(poolservice.specs.LAYERS)
    assert set(poolservice_client.__all__) == layers | set(errors.__all__) | {
        "AsyncPoolClient",
        "BackboneInfo",
        "BackboneOutputInfo",
        "ClientStats",
        "DeviceInfo",
        "Execution",
        "Explanation",
        "HeadInfo",
        "Health",
        "ImageRegion",
        "Limits",
        "MapItem",
        "OperatorInfo",
        "ParameterInfo",
        "PoolClient",
        "PoolResponse",
        "PoolSpec",
        "PreprocessingInfo",
        "RetryPolicy",
        "Sequential",
        "ServerInfo",
        "TLS",
        "__version__",
    }
    for name in poolservice_client.__all__:
        assert getattr(poolservice_client, name) is not None
    assert sorted(poolservice_client.__all__) == sorted(set(poolservice_client.__all__))


def test_no_other_name_is_public() -> None:
    modules = {"errors", "ray"}
    public = {name for name in vars(poolservice_client) if not name.startswith("_")}
    assert public - set(poolservice_client.__all__) <= modules


def test_specs_and_errors_are_those_of_the_contract() -> None:
    assert poolservice_client.MaxPool2d is poolservice.specs.MaxPool2d
    assert poolservice_client.InvalidRequest is poolservice.errors.InvalidRequest
    assert all(issubclass(getattr(errors, name), poolservice_client.PoolError) for name in errors.__all__)
    assert issubclass(poolservice_client.InvalidRequest, ValueError)
    assert issubclass(poolservice_client.DeadlineExceeded, TimeoutError)


def test_the_import_loads_neither_torch_nor_pillow_nor_the_command_line() -> None:
    program = "import sys, poolservice_client; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "grpc" in loaded
    assert not {"torch", "PIL", "typer", "rich", "matplotlib", "poolservice_server"} & set(loaded)
