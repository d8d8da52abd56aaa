"""`poolservice-server doctor` finds each planted problem, says what to do, and has an exit status for scripts."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.backbones.models import TinyBackbone
from tests.layers.head_folders import HEADS
from tests.server.doctor.conftest import Doctor

from poolservice_server.testing import serve

NOW = datetime.now(UTC)
SECRET = "correct-horse-battery-staple"


def tls_flags(folder: Path, certificate: trustme.LeafCert, key: trustme.LeafCert | None = None) -> list[str]:
    chain = b"".join(one.bytes() for one in certificate.cert_chain_pems)
    (folder / "certificate.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes((key or certificate).private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)
    return ["--tls-certificate", str(folder / "certificate.pem"), "--tls-key", str(folder / "key.pem")]


def token_file(folder: Path, mode: int = 0o600, content: str = f"{SECRET} alice\n") -> str:
    path = folder / "tokens"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def test_a_healthy_machine_has_no_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    report = doctor(*tls_flags(tmp_path, authority.issue_cert("localhost")), "--auth-token-file", token_file(tmp_path))
    assert report.problems == []
    assert report.status == 0


def test_a_port_that_another_process_uses_is_a_problem(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        report = doctor("--address", address)
        metrics = doctor("--metrics-address", address)
    (sentence,) = report.problems
    assert sentence.startswith(
        f"cannot listen on {address} (--address): Address already in use: process {os.getpid()} ("
    )
    assert sentence.endswith("listens there; stop it, or choose another port")
    assert report.status == 1
    assert f"cannot listen on {address} (--metrics-address)" in metrics.problems[0]


def test_a_worker_that_uses_a_port_is_named_by_its_supervisor(doctor: Doctor) -> None:
    with serve("--device", "cpu", "--workers", "2") as server:
        (sentence,) = doctor("--address", server.address).problems
    assert f"process {server.process.pid} (poolservice-server) listens there; stop it" in sentence


def test_an_address_of_another_machine_is_a_problem(doctor: Doctor) -> None:
    # Reserved for documentation (RFC 5737).
    report = doctor("--address", "203.0.113.1:50051", "--insecure")
    assert report.problems == [
        "cannot listen on 203.0.113.1:50051 (--address): Cannot assign requested address: 203.0.113.1 is no address of "
        "this machine; use 0.0.0.0 for all of its addresses"
    ]
    assert report.status == 1


def test_a_server_that_is_open_to_others_is_a_problem_and_with_insecure_a_warning(doctor: Doctor) -> None:
    report = doctor("--address", "0.0.0.0:0")
    assert report.status == 1
    assert "is open to other machines, and the traffic is not encrypted" in report.problems[0]
    intended = doctor("--address", "0.0.0.0:0", "--insecure")
    assert intended.status == 0
    assert any("serving without protection because of --insecure" in one for one in intended.warnings)


def test_an_expired_certificate_is_a_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    expired = authority.issue_cert("localhost", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=2))
    report = doctor(*tls_flags(tmp_path, expired))
    (sentence,) = report.problems
    assert f"certificate.pem expired on {NOW - timedelta(days=2):%Y-%m-%d}" in sentence
    assert "renew it" in sentence
    assert report.status == 1


def test_a_certificate_that_expires_soon_is_a_warning(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    report = doctor(*tls_flags(tmp_path, authority.issue_cert("localhost", not_after=NOW + timedelta(days=3))))
    assert any("in less than 14 days; renew it" in one for one in report.warnings)
    assert report.status == 0


def test_a_certificate_of_the_future_is_a_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    report = doctor(*tls_flags(tmp_path, authority.issue_cert("localhost", not_before=NOW + timedelta(days=2))))
    (sentence,) = report.problems
    assert "correct the clock, or wait" in sentence
    assert report.status == 1


def test_the_key_of_another_certificate_is_a_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    report = doctor(*tls_flags(tmp_path, authority.issue_cert("localhost"), authority.issue_cert("localhost")))
    (sentence,) = report.problems
    assert "is not the key of --tls-certificate" in sentence
    assert report.status == 1


def test_a_chain_in_the_wrong_order_is_a_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    flags = tls_flags(tmp_path, authority.issue_cert("localhost"))
    with (tmp_path / "certificate.pem").open("ab") as file:
        file.write(trustme.CA(organization_name="another").cert_pem.bytes())
    report = doctor(*flags)
    (sentence,) = report.problems
    assert "certificate 2 in --tls-certificate" in sentence
    assert "did not issue certificate 1" in sentence
    assert report.status == 1


def test_a_client_ca_that_is_no_ca_is_a_problem(doctor: Doctor, tmp_path: Path, authority: trustme.CA) -> None:
    client = authority.issue_cert("client")
    (tmp_path / "ca.pem").write_bytes(client.cert_chain_pems[0].bytes())
    flags = tls_flags(tmp_path, authority.issue_cert("localhost"))
    report = doctor(*flags, "--tls-client-ca", str(tmp_path / "ca.pem"))
    (sentence,) = report.problems
    assert "has no certificate of a CA" in sentence
    assert report.status == 1


def test_a_token_file_that_others_can_write_is_a_problem(doctor: Doctor, tmp_path: Path) -> None:
    path = token_file(tmp_path, 0o666)
    report = doctor("--auth-token-file", path)
    assert report.problems == [
        f"every user of this machine can write to --auth-token-file {path} (mode 666), and so let themselves in; run: "
        f"chmod 600 {path}"
    ]
    assert report.status == 1
    assert SECRET not in report.text


def test_a_token_file_that_others_can_read_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    path = token_file(tmp_path, 0o644)
    report = doctor("--auth-token-file", path)
    assert f"every user of this machine can read --auth-token-file {path} (mode 644); run: chmod 600 {path}" in (
        report.warnings
    )
    assert report.status == 0


def test_a_token_that_can_be_guessed_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    lines = f"# tokens\nfifteen-letters alice\nsixteen--letters bob\nsha256:{'0' * 64} carol\n"
    path = token_file(tmp_path, content=lines)
    report = doctor("--auth-token-file", path)
    (sentence,) = [one for one in report.warnings if "guessed" in one]
    assert f"the token in line 2 of --auth-token-file {path} has fewer than 16 characters" in sentence
    assert "fifteen-letters" not in report.text


def test_metrics_tokens_without_metrics_are_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor("--metrics-token-file", token_file(tmp_path))
    assert "--metrics-token-file has no effect without --metrics-address, which serves the metrics" in report.warnings


def test_a_token_file_without_tokens_is_a_problem(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor("--auth-token-file", token_file(tmp_path, content="# none yet\n"))
    (sentence,) = report.problems
    assert sentence.endswith("contains no token; write one per line")
    assert report.status == 1


def test_a_device_that_is_missing_is_a_problem(doctor: Doctor) -> None:
    report = doctor("--device", "cuda:99")
    (sentence,) = report.problems
    assert sentence.endswith("(--device, --require-gpu)")
    assert report.status == 1


def test_too_few_open_files_are_a_problem(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolservice_server.doctor.limits.possible_files", lambda: 512)
    report = doctor("--max-connections", "1000")
    (sentence,) = report.problems
    assert sentence.startswith("a process can have 512 open files, and --max-connections 1000 needs 1064")
    assert "LimitNOFILE=1064" in sentence
    assert report.status == 1


def test_a_damaged_backbone_is_a_problem(doctor: Doctor, tmp_path: Path, mobilenetv2: TinyBackbone) -> None:
    folder = tmp_path / "backbone"
    shutil.copytree(mobilenetv2.path, folder)
    assert doctor("--backbone", str(folder)).status == 0
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    report = doctor("--backbone", str(folder))
    assert any(str(folder / "model.onnx") in one for one in report.problems)
    assert report.status == 1


def test_a_missing_package_is_a_problem(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    report = doctor()
    assert any(one.startswith("the server needs uvloop with these settings; install ") for one in report.problems)
    assert report.status == 1


def test_an_untested_grpcio_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolservice_server.grpc_adapter.private_names.TESTED_VERSIONS", ("1.70.0",))
    assert any("but the tests ran with 1.70.0" in one for one in doctor().warnings)


def test_variables_that_are_unknown_or_slow_are_warnings(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_WORKES", "2")
    monkeypatch.setenv("GRPC_TRACE", "all")
    monkeypatch.setenv("http_proxy", f"http://alice:{SECRET}@proxy:3128")
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    report = doctor()
    text = "\n".join(report.warnings)
    assert "POOLSERVICE_WORKES is not a setting and has no effect; did you mean POOLSERVICE_WORKERS?" in text
    assert "the variable GRPC_TRACE makes gRPC log its internals" in text
    assert "the variable http_proxy names a proxy" in text
    assert SECRET not in report.text
    assert report.status == 0


def test_a_temporary_folder_that_is_missing_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/missing")
    assert any("TMPDIR names /missing" in one for one in doctor().warnings)


def test_more_workers_than_cores_are_a_warning(doctor: Doctor) -> None:
    assert any("256 workers share" in one for one in doctor("--workers", "256", "--max-queue-bytes", "1").warnings)


def test_ten_problems_at_once_are_all_found(tmp_path: Path, authority: trustme.CA) -> None:
    expired = authority.issue_cert("localhost", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=2))
    flags = tls_flags(tmp_path, expired)
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "ca.pem").write_bytes(authority.issue_cert("client").cert_chain_pems[0].bytes())
    (tmp_path / "settings.toml").write_text('device = "cuda:99"\nmax_connections = 30000\ninsecure = true\n')
    flags += ["--config", str(tmp_path / "settings.toml"), "--tls-client-ca", str(tmp_path / "ca.pem")]
    flags += ["--auth-token-file", token_file(tmp_path, 0o666), "--max-queue-bytes", str(2**60)]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        address, metrics_address = (f"127.0.0.1:{one.getsockname()[1]}" for one in (listener, other))
        flags += ["--address", address, "--metrics-address", metrics_address, "--backbone", str(tmp_path / "missing")]
        done = subprocess.run(
            [sys.executable, "-m", "poolservice_server", "doctor", "--json", *flags],
            env={**os.environ, "POOLSERVICE_WORKES": "2", "TMPDIR": "/missing"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    found = [(one["state"], one["check"]) for one in report["findings"] if one["state"] != "ok"]
    assert sorted(found) == sorted(
        [
            ("problem", "addresses"),
            ("problem", "addresses"),
            ("problem", "backbones"),
            ("problem", "certificates"),
            ("problem", "certificates"),
            ("problem", "device"),
            ("problem", "files"),
            ("problem", "memory"),
            ("problem", "secrets"),
            ("warning", "environment"),
            ("warning", "secrets"),
            ("warning", "temporary files"),
        ]
    )
    assert SECRET not in done.stdout


def test_a_head_without_which_the_server_starts_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    HEADS["netvlad"].write(tmp_path / "heads" / "whole")
    HEADS["netvlad"].write(tmp_path / "heads" / "tampered", sha256="0" * 64)
    report = doctor("--heads", str(tmp_path / "heads"))
    assert report.problems == []
    assert any("starts without the head tampered: head.safetensors is tampered" in one for one in report.warnings)
    assert "1 head complete (whole)" in report.text
    (sentence,) = doctor("--heads", str(tmp_path / "missing")).problems
    assert sentence.startswith("cannot read ")


def test_a_wrong_setting_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    from poolservice_server.doctor.command import main

    assert main(["--workers", "none-at-all"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("poolservice-server doctor: workers (--workers, POOLSERVICE_WORKERS): must be")

    assert main(["--address", ""]) == 2
    assert "must be HOST:PORT" in capsys.readouterr().err


def test_lines_for_people_end_with_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    from poolservice_server.doctor.command import main

    assert main(["--device", "cpu", "--address", "127.0.0.1:0", "--backbone", "/missing"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert any(line.startswith("problem  backbones ") for line in lines)
    assert last.startswith("1 problem, ")


def test_a_collector_that_does_not_run_is_a_warning(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        endpoint = ("--otlp-endpoint", f"http://alice:{SECRET}@127.0.0.1:{port}")
        assert not any("collector" in one for one in doctor(*endpoint).warnings)
    report = doctor(*endpoint)
    assert (
        f"no collector can be reached at 127.0.0.1:{port} (--otlp-endpoint): Connection refused; traces are lost until "
        "it runs"
    ) in report.warnings
    assert SECRET not in report.text


def test_a_missing_package_of_an_extra_is_a_problem(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_channelz", None)
    assert doctor().status == 0
    report = doctor("--channelz")
    assert report.problems == [
        "the server needs grpc_channelz with these settings; install poolservice with its extras, in a clone of the "
        "repository with: pip install '.[server,channelz]'"
    ]
