"""The settings in the manifests: the server knows them, and they fit the pods' limits and times."""

import os
import re
from pathlib import Path

import pytest
import yaml
from tests.kubernetes.kustomize import Object, container_of, pod_of
from tests.kubernetes.variants import KUBERNETES, ROOT

from poolservice_server.settings import Settings, load, unknown_variables

MEBIBYTE = 2**20
# What README.md says of the memory of one process, and of the messages that arrive at the same time.
BASE_BYTES, MESSAGES = 350 * MEBIBYTE, 8
# A process ends half a second after its grace period; the rest is for a busy node.
END_SECONDS = 5


@pytest.fixture
def settings(manifests: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the server in the pods of each variant, loaded by the server."""
    return load_settings(manifests, tmp_path, monkeypatch)


def load_settings(manifests: list[Object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load the container's arguments and environment as the server does, with the settings file in `folder`."""
    for name in [name for name in os.environ if name.startswith("POOLSERVICE_")]:
        monkeypatch.delenv(name)
    (config_map,) = (one for one in manifests if one["kind"] == "ConfigMap")
    ((name, text),) = config_map["data"].items()
    (folder / name).write_text(text)
    container = container_of(manifests)
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    return load([argument.replace("/etc/poolservice/settings", str(folder)) for argument in container["args"]])


def test_the_server_knows_every_setting(settings: Settings) -> None:
    assert unknown_variables(Settings.model_fields) == []
    assert settings.config is not None


def test_the_ports_are_those_of_the_container(settings: Settings, manifests: list[Object]) -> None:
    ports = {port["name"]: port["containerPort"] for port in container_of(manifests)["ports"]}
    assert settings.address == f"0.0.0.0:{ports['grpc']}"
    assert settings.metrics_address == f"0.0.0.0:{ports['metrics']}"


def test_callers_are_kept_out_by_tls_and_tokens_or_by_the_network(settings: Settings, manifests: list[Object]) -> None:
    files = [settings.tls_certificate, settings.tls_key, settings.auth_token_file]
    if settings.insecure:
        assert files == [None, None, None]
        assert any(one["kind"] == "NetworkPolicy" for one in manifests)
    else:
        mounted = {mount["mountPath"] for mount in container_of(manifests)["volumeMounts"]}
        assert all(file is not None and str(file.parent) in mounted for file in files)


def test_the_pod_has_time_to_stop(settings: Settings, manifests: list[Object]) -> None:
    pause = container_of(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_of(manifests)["terminationGracePeriodSeconds"] >= pause + settings.grace_period + END_SECONDS


def test_the_memory_suffices_for_the_queue(settings: Settings, manifests: list[Object]) -> None:
    resources = container_of(manifests)["resources"]
    assert resources["requests"].items() <= resources["limits"].items()
    arriving = MESSAGES * 2 * settings.max_message_bytes
    needed = settings.workers * (BASE_BYTES + settings.max_queue_bytes + arriving)
    gibibytes = re.fullmatch(r"(\d+)Gi", resources["limits"]["memory"])
    assert gibibytes is not None
    assert int(gibibytes[1]) * 1024 * MEBIBYTE >= needed
    # Without a limit of the CPU, the server would start a thread for each core of the node.
    assert int(resources["limits"]["cpu"]) >= settings.workers


def test_the_metrics_of_the_autoscalers_exist() -> None:
    (autoscaler,) = yaml.safe_load_all((KUBERNETES / "components/autoscaling/autoscaler.yaml").read_text())
    adapter = yaml.safe_load((KUBERNETES / "components/autoscaling/prometheus-adapter-values.yaml").read_text())
    scaled = yaml.safe_load((KUBERNETES / "components/autoscaling-keda/scaled-object.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    names = [one["pods"]["metric"]["name"] for one in autoscaler["spec"]["metrics"] if one["type"] == "Pods"]
    assert names == [rule["name"]["as"]]
    queries = [rule["seriesQuery"], rule["metricsQuery"], scaled["spec"]["triggers"][0]["metadata"]["query"]]
    documented = (ROOT / "server" / "METRICS.md").read_text()
    for query in queries:
        for metric in re.findall(r"poolservice_\w+", query):
            row = re.search(rf"^\| `{re.sub('_(sum|count)$', '', metric)}` \| histogram \| (.*) \|", documented, re.M)
            assert row is not None, metric
            assert "`stage`" in row[1]
            assert "`queue`" in row[1]
        assert 'stage="queue"' in query


def test_both_autoscalers_have_the_same_bounds() -> None:
    (autoscaler,) = yaml.safe_load_all((KUBERNETES / "components/autoscaling/autoscaler.yaml").read_text())
    scaled = yaml.safe_load((KUBERNETES / "components/autoscaling-keda/scaled-object.yaml").read_text())["spec"]
    spec = autoscaler["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (scaled["minReplicaCount"], scaled["maxReplicaCount"])
    queue, cpu = spec["metrics"]
    prometheus, processor = scaled["triggers"]
    milliseconds = int(queue["pods"]["target"]["averageValue"].removesuffix("m"))
    assert float(prometheus["metadata"]["threshold"]) == milliseconds / 1000
    assert processor["metadata"]["value"] == str(cpu["resource"]["target"]["averageUtilization"])
    # One pod always remains while another is evicted.
    assert spec["minReplicas"] > 1
