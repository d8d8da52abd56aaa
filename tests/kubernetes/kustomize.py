"""Renders the kustomizations of server/deploy/kubernetes, so that tests need no kubectl.

This does what they use: resources, components, strategic merge patches, a ConfigMap from files, and images. It raises
ValueError for everything else. A test compares it with kubectl where that is installed.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_KEYS = {"apiVersion", "kind", "resources", "components", "patches", "configMapGenerator", "images"}
# The key by which Kubernetes merges the elements of each list. It replaces other lists as a whole.
_MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}


def render(folder: Path) -> list[Object]:
    """Return the objects of the kustomization in `folder`."""
    return _render(folder, [])


def identity(manifest: Object) -> tuple[str, str]:
    """Return what identifies an object in these kustomizations: its kind and its name."""
    return manifest["kind"], manifest["metadata"]["name"]


def pod_of(manifests: list[Object]) -> Object:
    """Return the specification of the pods of the only Deployment."""
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def container_of(manifests: list[Object]) -> Object:
    """Return the only container of these pods."""
    (container,) = pod_of(manifests)["containers"]
    result: Object = container
    return result


def _render(folder: Path, manifests: list[Object]) -> list[Object]:
    """Return the objects with those of `folder`, which may be a component and then changes all of them."""
    (kustomization,) = _load(folder / "kustomization.yaml")
    if unknown := kustomization.keys() - _KEYS:
        raise ValueError(f"{folder}: this renderer does not know {', '.join(sorted(unknown))}")
    manifests = copy.deepcopy(manifests)
    for name in kustomization.get("resources", ()):
        path = folder / name
        manifests += render(path) if path.is_dir() else _load(path)
    for generator in kustomization.get("configMapGenerator", ()):
        manifests.append(_config_map(folder, **generator))
    for name in kustomization.get("components", ()):
        manifests = _render(folder / name, manifests)
    for patch in kustomization.get("patches", ()):
        for change in _load(folder / patch["path"]):
            (index,) = (number for number, one in enumerate(manifests) if identity(one) == identity(change))
            manifests[index] = _merge(manifests[index], change)
    for image in kustomization.get("images", ()):
        _set_image(manifests, **image)
    return manifests


def _load(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


def _config_map(folder: Path, name: str, namespace: str, files: list[str]) -> Object:
    """Return the ConfigMap with the contents of `files`, without the hash that kustomize adds to its name."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {file: (folder / file).read_text() for file in files},
    }


def _set_image(manifests: list[Object], name: str, newTag: str, newName: str | None = None) -> None:  # noqa: N803
    container = container_of(manifests)
    if container["image"].rpartition(":")[0] == name or container["image"] == name:
        container["image"] = f"{newName or name}:{newTag}"


def _merge(old: Any, change: Any, merge_key: str | None = None) -> Any:
    if isinstance(change, dict):
        merged = dict(old) if isinstance(old, dict) else {}
        for key, value in change.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value, _MERGE_KEYS.get(key))
        return merged
    if merge_key is None:
        return change
    elements = {one[merge_key]: one for one in old or ()}
    for one in change:
        elements[one[merge_key]] = _merge(elements.get(one[merge_key]), one)
    return list(elements.values())
