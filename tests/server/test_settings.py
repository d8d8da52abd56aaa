"""The server's settings: flags, environment variables, the settings file, and the errors of wrong ones."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.settings import Settings, unknown_variables
from poolservice_server.testing import Service

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]
StartServer = Callable[..., Service]

# No machine has this address: it is reserved for documentation (RFC 5737).
NOT_THIS_MACHINE = "203.0.113.1:50051"


def failure(run_server: RunServer, *flags: str, env: dict[str, str] | None = None) -> str:
    """Return the one sentence with which the server refuses to start. Only log lines may precede it."""
    ended = run_server(*flags, env=env)
    assert ended.returncode == 2
    assert ended.stdout == ""
    *log, sentence = ended.stderr.splitlines()
    assert sentence.startswith("poolservice-server: ")
    assert all("[warning  ]" in line for line in log)
    return sentence


def limits(service: Service) -> pb.Limits:
    with grpc.insecure_channel(service.address) as channel:
        return PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest()).limits


def test_help_explains_every_setting_with_its_default(run_server: RunServer) -> None:
    help_text = " ".join(run_server("--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text
        assert field.description is not None
        default = "none" if field.default is None else field.default
        assert f"{field.description} (default: {default})" in help_text
        if field.default is None:
            assert "; none: " in field.description
    assert "null" not in help_text
    assert "POOLSERVICE_LISTEN" in help_text


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (["--address", "nowhere"], {}, "address (--address, POOLSERVICE_LISTEN): must be HOST:PORT"),
        ([], {"POOLSERVICE_LISTEN": "nowhere"}, "address (--address, POOLSERVICE_LISTEN): must be HOST:PORT"),
        (["--max-batch-size", "0"], {}, "max_batch_size (--max-batch-size, POOLSERVICE_MAX_BATCH_SIZE): must be"),
        ([], {"POOLSERVICE_THREADS": "many"}, "threads (--threads, POOLSERVICE_THREADS): must be"),
        (["--device", "cuda:99"], {}, "(--device, --require-gpu)"),
        (["--require-gpu"], {"POOLSERVICE_DEVICE": "cpu"}, "--require-gpu"),
        (["--config", "missing.toml"], {}, "missing.toml"),
        ([], {"POOLSERVICE_CONFIG": "missing.toml"}, "missing.toml"),
        (["--address", NOT_THIS_MACHINE], {}, f"cannot listen on {NOT_THIS_MACHINE} (--address): Cannot assign"),
        (["--metrics-address", NOT_THIS_MACHINE], {}, "(--metrics-address): Cannot assign requested address"),
        (["--address"], {}, "argument --address: expected one argument"),
        (["--bogus"], {}, "unknown argument --bogus (poolservice-server --help lists the flags)"),
        (["--adress", "127.0.0.1:0"], {}, "unknown argument --adress; did you mean --address?"),
        (["--max-batchsize=8"], {}, "unknown argument --max-batchsize; did you mean --max-batch-size?"),
        (["50051"], {}, "unknown argument 50051"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(
    run_server: RunServer, flags: list[str], env: dict[str, str], words: str
) -> None:
    assert words in failure(run_server, *flags, env=env)


def test_an_unknown_key_of_the_settings_file_is_refused_with_the_nearest_name(
    run_server: RunServer, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batchsize = 8\n")
    assert "max_batchsize is not a setting; did you mean max_batch_size?" in failure(run_server, "--config", str(file))


def test_an_address_in_use_is_reported_in_one_sentence(server_address: str, run_server: RunServer) -> None:
    assert "Address already in use" in failure(run_server, "--address", server_address)


def test_flags_override_the_environment_which_overrides_the_file(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batch_size = 3\nmax_queue_items = 30\nmax_image_pixels = 300\n")
    server = start_server(
        *("--config", str(file), "--max-batch-size", "5"),
        env={"POOLSERVICE_MAX_BATCH_SIZE": "4", "POOLSERVICE_MAX_QUEUE_ITEMS": "40"},
    )
    found = limits(server)
    assert (found.max_batch_size, found.max_queue_items, found.max_image_pixels) == (5, 40, 300)


def test_the_environment_names_the_address_to_listen_on(run_server: RunServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('address = "127.0.0.1:0"\n')
    assert NOT_THIS_MACHINE in failure(run_server, "--config", str(file), env={"POOLSERVICE_LISTEN": NOT_THIS_MACHINE})


def test_the_server_does_not_listen_on_the_address_of_its_clients(run_server: RunServer) -> None:
    # The device is checked after the address, so this server would have listened.
    sentence = failure(run_server, "--device", "cuda:99", env={"POOLSERVICE_ADDRESS": NOT_THIS_MACHINE})
    assert "(--device, --require-gpu)" in sentence


def test_an_unknown_variable_is_reported_with_the_nearest_name(start_server: StartServer) -> None:
    server = start_server(env={"POOLSERVICE_MAX_BATCHSIZE": "8"})
    assert (
        "POOLSERVICE_MAX_BATCHSIZE is not a setting and has no effect; did you mean POOLSERVICE_MAX_BATCH_SIZE?"
        in server.log()
    )
    assert limits(server).max_batch_size == 64


@pytest.mark.parametrize(
    "variable",
    [
        "POOLSERVICE_ADDRESS",
        "POOLSERVICE_TOKEN",
        "POOLSERVICE_CA",
        "POOLSERVICE_CLIENT_CERTIFICATE",
        "POOLSERVICE_CLIENT_KEY",
        "POOLSERVICE_IMAGE",
        "POOLSERVICE_TEST_ENGINE",
        "POOLSERVICE_PORT",
        "POOLSERVICE_PORT_50051_TCP_ADDR",
        "POOLSERVICE_SERVICE_HOST",
        "POOLSERVICE_SERVICE_PORT_GRPC",
    ],
)
def test_variables_of_other_programs_are_not_reported(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "x")
    assert unknown_variables(Settings.model_fields) == []
