"""The server's container image and its service in the compose file. `make image-test` runs the tests marked `image`."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.server.compose_project import ENGINE, IMAGE, Container, needs_engine, output, project

from poolservice import __version__
from poolservice_client import GlobalAvgPool2d, MaxPool2d, PoolClient

pytestmark = [pytest.mark.image, needs_engine]

_SBOM = "/opt/poolservice/sbom.cdx.json"


class Server(Container):
    """The container of the default profile, and its published address."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self.address = address


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with project() as started:
        started.start("server")
        yield Server(started.container("server").name, started.address("server"))


def test_the_published_port_serves(server: Server, photograph: Path) -> None:
    x = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    with PoolClient(server.address) as client:
        np.testing.assert_array_equal(client.pool(x, MaxPool2d(2)), x[:, 1::2, 1::2])
        assert client.pool(photograph, GlobalAvgPool2d()).shape == (3, 1, 1)


def test_the_server_runs_unprivileged_on_a_read_only_file_system(server: Server) -> None:
    status = dict(line.split(":", 1) for line in server.run_inside("cat", "/proc/1/status").splitlines())
    assert server.run_inside("id", "-u") == "10001"
    assert int(status["CapEff"], 16) == 0
    assert int(status["NoNewPrivs"]) == 1
    with pytest.raises(AssertionError, match="Read-only file system"):
        server.run_inside("touch", "/opt/poolservice/written")


def test_the_resource_limits_apply(server: Server) -> None:
    limits = server.inspect("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}")
    assert limits.split() == [str(4 * 2**30), str(2 * 10**9), "512"]


@pytest.mark.parametrize(("limit", "cores"), [("1", "1"), ("0.5", "1")])
def test_the_server_sees_the_cpu_limit_of_its_container(limit: str, cores: str) -> None:
    script = "from poolservice_server.cpu_count import usable_cpus; print(usable_cpus())"
    assert output(ENGINE, "run", "--rm", "--cpus", limit, "--entrypoint", "python", IMAGE, "-c", script) == cores


def test_the_metrics_are_on_the_network_of_the_project_only(server: Server) -> None:
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
    assert "poolservice_calls_total" in server.run_inside("python", "-c", script)
    assert set(json.loads(server.inspect("{{json .HostConfig.PortBindings}}"))) == {"50051/tcp"}


def test_the_image_has_no_compiler_and_no_pip(server: Server) -> None:
    with pytest.raises(AssertionError):
        server.run_inside("sh", "-c", "command -v cc || command -v gcc")
    with pytest.raises(AssertionError, match="No module named pip"):
        server.run_inside("/opt/poolservice/bin/python", "-m", "pip")


def test_no_program_of_the_image_may_change_its_user() -> None:
    # Only root may read all folders.
    arguments = ("--user", "0", "--entrypoint", "find", IMAGE, "/", "-xdev", "-type", "f", "-perm", "/6000")
    assert output(ENGINE, "run", "--rm", *arguments) == ""


def test_every_module_has_bytecode_that_no_start_compiles_again(server: Server) -> None:
    script = (
        "import importlib.util, pathlib, sys, poolservice_server.process\n"
        "files = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]\n"
        # Some modules of torch have names of files that do not exist.
        "files = [file for file in files if file.startswith('/') and file.endswith('.py')]\n"
        "cached = [importlib.util.cache_from_source(file) for file in files]\n"
        "print(len(cached) > 1000, [file for file in cached if not pathlib.Path(file).exists()])"
    )
    assert server.run_inside("python", "-c", script) == "True []"


def test_the_labels_name_the_version(server: Server) -> None:
    labels = json.loads(output(ENGINE, "image", "inspect", "--format", "{{json .Config.Labels}}", IMAGE))
    assert labels["org.opencontainers.image.version"] == __version__
    assert len(labels["org.opencontainers.image.revision"]) >= 40
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_bill_of_materials_lists_what_is_installed(server: Server) -> None:
    bill = json.loads(server.run_inside("cat", _SBOM))
    versions = {component["name"]: component["version"] for component in bill["components"]}
    script = "import grpc, torch; print(grpc.__version__, torch.__version__)"
    assert server.run_inside("python", "-c", script) == f"{versions['grpcio']} {versions['torch']}"
    assert server.run_inside("dpkg-query", "--show", "--showformat", "${Version}", "libc6") == versions["libc6"]
    assert {"poolservice", "python"} <= versions.keys()
    assert "pip" not in versions


def test_the_container_exits_with_status_0_when_it_is_stopped(server: Server) -> None:
    # An engine kills a container that is still running after its stop_grace_period, which gives another status.
    output(ENGINE, "stop", "--time", "40", server.name)
    assert server.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 0"
