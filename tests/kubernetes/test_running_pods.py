"""The container's command, environment and files start a real server, which answers the pods' probes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.kubernetes.kustomize import Object, container_of
from tests.kubernetes.variants import manifests_of

from poolservice_client import TLS, GlobalAvgPool2d, PoolClient, Unauthenticated
from poolservice_server.testing import Service

TOKEN = "token-of-a-test"
SERVER_NAME = "poolservice-headless.poolservice.svc.cluster.local"
StartServer = Callable[..., Service]


def _start(start_server: StartServer, manifests: list[Object], root: Path) -> tuple[Service, dict[str, str]]:
    """Start the server with the files of the pod below `root`; return it and its environment.

    Only the addresses differ, because a test must use free ports.
    """
    container = container_of(manifests)

    def local(text: str) -> str:
        return text.replace("/etc/poolservice", str(root))

    (config_map,) = (one for one in manifests if one["kind"] == "ConfigMap")
    (root / "settings").mkdir()
    for name, text in config_map["data"].items():
        (root / "settings" / name).write_text(text)
    environment = {one["name"]: local(one["value"]) for one in container["env"]}
    environment["POOLSERVICE_METRICS_ADDRESS"] = "127.0.0.1:0"
    return start_server(*map(local, container["args"]), env=environment), environment


def _write_secrets(root: Path) -> None:
    """Write what the two Secrets hold, a certificate and a token, and the CA of the certificate for clients."""
    authority = trustme.CA()
    certificate = authority.issue_cert(SERVER_NAME)
    (root / "tls").mkdir()
    (root / "tls" / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (root / "tls" / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    (root / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (root / "tokens").mkdir()
    (root / "tokens" / "tokens").write_text(f"{TOKEN} team-a\n")


def test_the_server_starts_and_knows_the_services_of_the_probes(start_server: StartServer, tmp_path: Path) -> None:
    manifests = manifests_of("cpu", tmp_path)
    server, _ = _start(start_server, manifests, tmp_path)
    with PoolClient(server.address) as client:
        assert client.pool(np.ones((3, 8, 8), np.float32), GlobalAvgPool2d()).shape == (3, 1, 1)
    container = container_of(manifests)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for kind in ("startup", "liveness", "readiness"):
            request = health_pb2.HealthCheckRequest(service=container[f"{kind}Probe"]["grpc"]["service"])
            assert health.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING


def test_the_server_starts_with_the_secrets_and_answers_the_commands_of_the_probes(
    start_server: StartServer, tmp_path: Path
) -> None:
    manifests = manifests_of("secure", tmp_path)
    _write_secrets(tmp_path)
    server, environment = _start(start_server, manifests, tmp_path)
    x, ca = np.ones((3, 8, 8), np.float32), TLS(ca=tmp_path / "ca.crt", server_name=SERVER_NAME)
    with PoolClient(server.address, tls=ca, token=TOKEN) as client:
        assert client.pool(x, GlobalAvgPool2d()).shape == (3, 1, 1)
    with PoolClient(server.address, tls=ca) as client, pytest.raises(Unauthenticated):
        client.pool(x, GlobalAvgPool2d())
    commands = [container_of(manifests)[f"{kind}Probe"]["exec"]["command"] for kind in ("liveness", "readiness")]
    for command in commands:
        assert _run(command, server.address, environment, tmp_path).returncode == 0
    server.stop()
    for command in commands:
        assert _run(command, server.address, environment, tmp_path).returncode != 0


def _run(
    command: list[str], address: str, environment: dict[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run the command of a probe with the server's address, and with `poolservice-server` in the search path."""
    program = folder / "bin" / "poolservice-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m poolservice_server "$@"\n')
    program.chmod(0o755)
    return subprocess.run(
        command,
        env={**os.environ, **environment, "POOLSERVICE_LISTEN": address, "PATH": f"{program.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
