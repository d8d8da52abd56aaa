"""The variants of the manifests that the tests check: all overlays, and the components that no overlay has."""

import os
from pathlib import Path

import yaml
from tests.kubernetes.kustomize import Object, render

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "server" / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
#: Components that a reader may combine in an overlay of their own.
COMPOSED = {
    "backbones and KEDA": ["insecure", "backbones", "autoscaling-keda"],
    "GPU with TLS": ["gpu", "tls"],
}
VARIANTS = [*OVERLAYS, *COMPOSED]


def folder_of(variant: str, folder: Path) -> Path:
    """Return the folder of a variant's kustomization; write it to `folder` if it is not an overlay."""
    if variant not in COMPOSED:
        return KUBERNETES / "overlays" / variant
    start = os.path.relpath(KUBERNETES, folder)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{start}/base"],
        "components": [f"{start}/components/{name}" for name in COMPOSED[variant]],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def manifests_of(variant: str, folder: Path) -> list[Object]:
    """Return the objects of a variant."""
    return render(folder_of(variant, folder))
