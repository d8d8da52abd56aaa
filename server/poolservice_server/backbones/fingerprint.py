"""The fingerprint of a backbone, which tells whether two servers compute the same features."""

import hashlib
import json
from typing import Any

from poolservice_server.backbones.manifest import SCHEMA, Manifest

_DIGITS = 32

# These keys change no feature: texts, and the names of files. The hashes of the files count.
_IGNORED: Any = {
    "schema_version": True,
    "name": True,
    "description": True,
    "licence": True,
    "source": True,
    "onnx": {"file": True, "external_data": {"__all__": {"file"}}},
    "torch": {"file": True},
    "program": {"file": True},
    "head": {"file": True, "labels": True},
    "projections": {"__all__": {"file"}},
}


def fingerprint(manifest: Manifest) -> str:
    """Return 32 hexadecimal digits of a hash of everything in a manifest that changes features.

    Keys that have their default are left out, so a fingerprint remains the same when a release adds a key.
    """
    features = manifest.model_dump(mode="json", exclude=_IGNORED, exclude_defaults=True)
    canonical = json.dumps([SCHEMA, features], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]
