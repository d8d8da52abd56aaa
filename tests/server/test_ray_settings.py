"""The settings of `poolservice-server ray`: what Serve cannot honour is refused before Ray starts."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from poolservice_server.ray.command import reason_in
from poolservice_server.ray.settings import RaySettings, check_honoured
from poolservice_server.settings import Settings, SettingsError, settings_of

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]


def failure(run_server: RunServer, *flags: str, env: dict[str, str] | None = None) -> str:
    """Return the last line with which the command refuses to start."""
    ended = run_server("ray", *flags, env=env)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    return ended.stderr.splitlines()[-1]


def test_help_explains_the_flags_of_replicas(run_server: RunServer) -> None:
    text = run_server("ray", "--help").stdout
    for name in RaySettings.model_fields.keys() - Settings.model_fields.keys():
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "2"], "--workers has no effect with Ray Serve: use --replicas"),
        (["--plain-server"], "--plain-server has no effect"),
        (["--auth-token-file", "tokens"], "Serve's gRPC proxy checks none"),
        (["--tls-certificate", "a", "--tls-key", "b"], "put a proxy with TLS in front of it"),
        (["--metrics-address", "127.0.0.1:9"], "Ray exports those of Serve"),
        (["--send-timeout", "1"], "--send-timeout has no effect with Ray Serve: Serve's gRPC proxy has no such limit"),
        (["--address", "unix:/tmp/x"], "--address must be HOST:PORT with Ray Serve"),
        (["--address", "0.0.0.0:50051"], "open to other machines"),
        (["--replicas", "3", "--max-replicas", "2"], "--max-replicas (2) must be at least --replicas (3), or 0"),
        (["--address", ""], "must be HOST:PORT"),
        (
            ["--replica-gpus", "0.5", "--device", "cpu"],
            "replica_gpus (0.5) reserves GPUs that replicas with --device cpu",
        ),
        (["--replica", "3"], "unknown argument --replica; did you mean --replicas?"),
        (
            ["--bogus"],
            "poolservice-server ray: unknown argument --bogus (poolservice-server ray --help lists the flags)",
        ),
    ],
)
def test_what_serve_cannot_honour_is_refused_with_the_reason(
    run_server: RunServer, flags: list[str], words: str
) -> None:
    assert words in failure(run_server, *flags)


def test_a_loopback_address_is_refused_if_the_proxy_hides_the_callers(run_server: RunServer) -> None:
    assert "must be 0.0.0.0:PORT, with --insecure" in failure(run_server, env={"RAY_SERVE_ENABLE_HA_PROXY": "1"})


def test_the_reason_why_replicas_do_not_start_is_the_end_of_the_traceback() -> None:
    traceback = (
        'The deployment failed:\n  File "/x.py", line 1\npoolservice_server.settings.errors.SettingsError: no file\n'
    )
    assert reason_in([traceback]) == "no file"
    assert reason_in(["RuntimeError: no memory"]) == "RuntimeError: no memory"
    assert "logs" in reason_in([""])


def test_an_error_in_a_deployment_file_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"max_batch_siz in args is not a setting; did you mean max_batch_size"):
        settings_of({"max_batch_siz": 1}, "args")


def test_the_environment_is_above_a_deployment_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_MAX_BATCH_SIZE", "7")
    assert settings_of({"max_batch_size": 1}, "args").max_batch_size == 7


def test_a_setting_without_effect_in_a_deployment_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--auth-token-file has no effect with Ray Serve"):
        check_honoured(settings_of({"auth_token_file": str(tmp_path)}, "args"))
