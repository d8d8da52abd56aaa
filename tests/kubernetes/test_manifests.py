"""The Kubernetes manifests: their schema, and that their parts agree with each other and with the server."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.kubernetes.kustomize import Object, container_of, identity, pod_of, render
from tests.kubernetes.variants import COMPOSED, KUBERNETES, ROOT, VARIANTS, folder_of, manifests_of

from poolservice import __version__

# The oldest version that README.md names, and one of the newest with a schema.
OLDEST_VERSION, NEWEST_VERSION = "1.30", "1.37"
# Their schemas belong to operators and are not in Kubernetes' own.
WITHOUT_SCHEMA = {"PodMonitor", "ScaledObject"}


def _of_kind(manifests: list[Object], kind: str) -> list[Object]:
    return [one for one in manifests if one["kind"] == kind]


@pytest.mark.parametrize("version", [OLDEST_VERSION, NEWEST_VERSION])
def test_every_object_matches_the_schema(manifests: list[Object], version: str) -> None:
    for one in manifests:
        if one["kind"] not in WITHOUT_SCHEMA:
            _validate(json.dumps(one), version)
    assert len(manifests) >= 8


@functools.cache
def _validate(manifest: str, version: str) -> None:
    """Check an object, given as JSON, once: most of them are the same in all variants."""
    # strict: a field that Kubernetes does not know is an error, too.
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def test_the_pod_that_copies_backbones_matches_the_schema() -> None:
    (pod,) = yaml.safe_load_all((KUBERNETES / "components/backbones/writer-pod.yaml").read_text())
    (claim,) = yaml.safe_load_all((KUBERNETES / "components/backbones/volume-claim.yaml").read_text())
    kubernetes_validate.validate(pod, OLDEST_VERSION, strict=True)
    (volume,) = pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    # As the pods of the server, or the namespace would refuse it.
    assert pod["spec"]["securityContext"] == pod_of(render(KUBERNETES / "base"))["securityContext"]
    assert (
        pod["spec"]["containers"][0]["securityContext"]
        == (container_of(render(KUBERNETES / "base"))["securityContext"])
    )


def test_the_schema_refuses_a_misspelt_field(tmp_path: Path) -> None:
    manifests = manifests_of("cpu", tmp_path)
    container_of(manifests)["livenessProb"] = {}
    (deployment,) = _of_kind(manifests, "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST_VERSION, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_renders_the_same_objects(variant: str, manifests: list[Object], tmp_path: Path) -> None:
    folder = folder_of(variant, tmp_path)
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Without the hash of its contents in the ConfigMap's name.
    text = re.sub(r"\b(poolservice-settings)-[a-z0-9]{10}\b", r"\1", done.stdout)
    assert _sorted(list(yaml.safe_load_all(text))) == _sorted(manifests)


def _sorted(manifests: list[Object]) -> list[Object]:
    """Return the objects in the order of their names, with the lists that Kubernetes merges sorted by their keys."""
    for container in pod_of(manifests)["containers"]:
        container["env"].sort(key=lambda one: one["name"])
        container["volumeMounts"].sort(key=lambda one: one["mountPath"])
    pod_of(manifests)["volumes"].sort(key=lambda one: one["name"])
    return sorted(manifests, key=identity)


def test_pods_meet_the_restricted_security_standard(manifests: list[Object]) -> None:
    (namespace,) = _of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod, container = pod_of(manifests), container_of(manifests)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {
        *("configMap", "emptyDir", "secret", "persistentVolumeClaim")
    }


def test_the_pods_run_as_the_user_of_the_image(manifests: list[Object]) -> None:
    user = pod_of(manifests)["securityContext"]["runAsUser"]
    assert re.search(rf"^USER {user}:{user}$", (ROOT / "server" / "Dockerfile").read_text(), re.MULTILINE)


def test_no_secret_is_committed(manifests: list[Object]) -> None:
    assert _of_kind(manifests, "Secret") == []
    readme = (KUBERNETES / "README.md").read_text()
    for volume in pod_of(manifests)["volumes"]:
        if "secret" in volume:
            assert re.search(rf"kubectl create secret (tls|generic) {volume['secret']['secretName']} ", readme)


def test_every_selector_finds_the_pods(manifests: list[Object]) -> None:
    (deployment,) = _of_kind(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in _of_kind(manifests, "Service")]
    selectors += [
        one["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor")
        for one in _of_kind(manifests, kind)
    ]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in _of_kind(manifests, "NetworkPolicy")]
    selectors += [one["labelSelector"]["matchLabels"] for one in pod_of(manifests)["topologySpreadConstraints"]]
    assert len(selectors) >= 7
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_every_port_is_a_port_of_the_container(manifests: list[Object]) -> None:
    container = container_of(manifests)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = _of_kind(manifests, "Service")
    assert sorted("clusterIP" in service["spec"] for service in services) == [False, True]
    for service in services:
        assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(ports["grpc"], "grpc")]
    (policy,) = _of_kind(manifests, "NetworkPolicy")
    assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == ["grpc", "metrics"]
    for monitor in _of_kind(manifests, "PodMonitor"):
        assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    for probe in _probes(container):
        for handler in ("grpc", "tcpSocket"):
            assert probe.get(handler, {}).get("port", "grpc") in ("grpc", ports["grpc"])


def test_every_probe_has_one_handler(manifests: list[Object]) -> None:
    for probe in _probes(container_of(manifests)):
        assert len(probe.keys() & {"grpc", "tcpSocket", "exec", "httpGet"}) == 1
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def _probes(container: Object) -> list[dict[str, Any]]:
    return [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]


def test_every_volume_is_mounted_and_every_mount_has_a_volume(manifests: list[Object]) -> None:
    pod, container = pod_of(manifests), container_of(manifests)
    assert sorted(one["name"] for one in pod["volumes"]) == sorted(one["name"] for one in container["volumeMounts"])
    config_maps = {one["metadata"]["name"] for one in _of_kind(manifests, "ConfigMap")}
    claims = {one["metadata"]["name"] for one in _of_kind(manifests, "PersistentVolumeClaim")}
    assert {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one} == config_maps
    assert {
        one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one
    } == claims
    assert all(mount.get("readOnly") or mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])


def test_an_upgrade_keeps_enough_pods(variant: str, manifests: list[Object]) -> None:
    (deployment,) = _of_kind(manifests, "Deployment")
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    # A pod with a GPU needs the one of an old pod.
    uses_gpu = "nvidia.com/gpu" in container_of(manifests)["resources"]["limits"]
    assert uses_gpu == ("gpu" in variant.lower())
    assert rolling == ({"maxSurge": 0, "maxUnavailable": 1} if uses_gpu else {"maxSurge": 1, "maxUnavailable": 0})


def test_the_autoscaler_owns_the_number_of_pods(variant: str, manifests: list[Object]) -> None:
    (deployment,) = _of_kind(manifests, "Deployment")
    scalers = [one for kind in ("HorizontalPodAutoscaler", "ScaledObject") for one in _of_kind(manifests, kind)]
    assert ("replicas" in deployment["spec"]) == (not scalers)
    assert len(scalers) == (variant in ("secure", "backbones and KEDA"))
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_all_components_are_checked() -> None:
    files = [KUBERNETES / "overlays" / name / "kustomization.yaml" for name in VARIANTS if name not in COMPOSED]
    used = {name for names in COMPOSED.values() for name in names}
    used |= {path.split("/")[-1] for file in files for path in yaml.safe_load(file.read_text()).get("components", ())}
    assert used == {path.name for path in (KUBERNETES / "components").iterdir()}


def test_the_paths_in_the_readme_exist() -> None:
    readme = (KUBERNETES / "README.md").read_text()
    paths = set(re.findall(r"server/deploy/kubernetes/[\w./-]+\w", readme))
    assert len(paths) >= 5
    assert all((ROOT / path.removeprefix("poolservice/")).exists() for path in paths)
    named = set(re.findall(r"`((?:overlays|components)/[\w-]+)`", readme))
    assert named == {
        f"{folder}/{path.name}" for folder in ("overlays", "components") for path in (KUBERNETES / folder).iterdir()
    }


def test_the_overlay_in_the_readme_can_be_rendered(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", (KUBERNETES / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(block)
    (tmp_path / "poolservice").symlink_to(ROOT)
    kinds = {one["kind"] for one in render(tmp_path)}
    assert {"Deployment", "HorizontalPodAutoscaler", "PersistentVolumeClaim"} <= kinds


def test_the_images_have_the_version_of_this_repository() -> None:
    files = [*KUBERNETES.rglob("*.yaml"), KUBERNETES / "README.md"]
    tags = [tag for file in files for tag in re.findall(r"(?:newTag: |/poolservice:)([\d.]+\d)", file.read_text())]
    assert len(tags) >= 6
    assert set(tags) == {__version__}
