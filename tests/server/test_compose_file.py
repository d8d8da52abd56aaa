"""The compose file: its schema, its profiles, and what they publish."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from tests.server.compose_project import COMPOSE_FILE, ROOT, Project, needs_engine

PROFILES = {
    None: {"server"},
    "scale": {"server-2"},
    "gpu": {"server-gpu"},
    "jobs": {"client"},
    "observe": {"prometheus", "grafana", "otel-collector"},
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE_FILE.read_text())["services"])


def test_the_file_follows_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]
    ended = subprocess.run(checker, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_service_belongs_to_its_profile(services: dict[str, Any]) -> None:
    found: dict[str | None, set[str]] = {}
    for name, service in services.items():
        for profile in service.get("profiles", [None]):
            found.setdefault(profile, set()).add(name)
    assert found == PROFILES


@pytest.mark.image
@needs_engine
@pytest.mark.parametrize("profile", PROFILES)
def test_the_engine_reads_each_profile(profile: str | None) -> None:
    config = yaml.safe_load(Project(profile).compose("config"))
    assert config["services"].keys() >= PROFILES[profile] | PROFILES[None]


def test_every_port_is_published_on_this_machine_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 6
    # Each has a variable and a default of its own.
    published = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port) for port in ports]
    assert all(published)
    assert len({one.groups() for one in published if one}) == len(ports)
    # Within its container, the server listens on all interfaces, which it refuses by default.
    assert services["server"]["environment"]["POOLSERVICE_INSECURE"] == "true"


def test_every_container_is_confined(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        # Where a file is mounted from this repository, nothing in the container can change it.
        mounts = [mount for mount in service.get("volumes", ()) if mount.startswith("./")]
        assert all(mount.endswith(":ro") for mount in mounts)
    limited = {name for name, service in services.items() if "limits" in service.get("deploy", {}).get("resources", {})}
    assert limited == services.keys() - {"client"}


def test_the_images_of_others_have_a_fixed_version(services: dict[str, Any]) -> None:
    others = [service["image"] for service in services.values() if "build" not in service]
    assert len(others) == 3
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image) for image in others)


def test_the_servers_share_a_name_and_may_finish_their_calls(services: dict[str, Any]) -> None:
    for name in ("server", "server-2", "server-gpu"):
        assert services[name]["networks"] == {"default": {"aliases": ["pool"]}}
        # Longer than the default of --grace-period.
        assert services[name]["stop_grace_period"] == "40s"
        assert services[name]["restart"] == "unless-stopped"


def test_the_mounted_files_exist(services: dict[str, Any]) -> None:
    mounts = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())]
    files = [mount for mount in mounts if mount.startswith("./")]
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_grafana_has_no_password_of_its_own(services: dict[str, Any]) -> None:
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    script = services["grafana"]["entrypoint"][-1].replace("$$", "$")
    ended = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "set GRAFANA_ADMIN_PASSWORD" in ended.stderr
