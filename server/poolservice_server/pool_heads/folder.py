"""A head's folder: `head.toml` and the safetensors file that it names, read and verified."""

import hashlib
import json
from pathlib import Path

from poolservice_server.backbones.folder_files import BrokenFile, read_text_file, read_verified
from poolservice_server.backbones.linear import WrongTensors
from poolservice_server.backbones.manifest_file import WrongManifest
from poolservice_server.backbones.manifest_tables import Table
from poolservice_server.pool_heads.head import PoolHead
from poolservice_server.pool_heads.kinds import KINDS
from poolservice_server.pool_heads.manifest import FILE_NAME, SCHEMA, HeadManifest, parse_manifest
from poolservice_server.pool_heads.tensors import match_shapes, read_weights

#: The limit of a head's weights, in bytes of its file.
MAX_BYTES = 2**30
#: The limit of a file with text.
LARGEST_TEXT = 2**20

_DIGITS = 32


def read_head(path: Path, name: str) -> PoolHead:
    """Read a head's folder, compare its weights with their hash, and check all of their shapes and values.

    Args:
        path: the folder.
        name: the name of the head in requests.

    Raises:
        BrokenFile: a file is missing or wrong. The message begins with its path in the folder.
    """
    try:
        manifest, parameters = parse_manifest(read_text_file(path, FILE_NAME, LARGEST_TEXT))
    except WrongManifest as error:
        raise BrokenFile(f"{FILE_NAME}: {error}") from None
    content = read_verified(path, manifest, MAX_BYTES, manifest=FILE_NAME)
    kind = KINDS[manifest.kind]
    try:
        weights = read_weights(content)
        sizes = match_shapes({name: weight.shape for name, weight in weights.items()}, kind.tensors(parameters))
        geometry = kind.geometry(parameters, sizes)
        if manifest.kind == "pca_whitening" and not (weights["variance"] > 0).all():
            raise WrongTensors("must have only positive numbers in variance")
    except WrongTensors as error:
        raise BrokenFile(f"{manifest.file} {error}") from None
    return PoolHead(
        name,
        manifest.kind,
        parameters,
        geometry,
        weights,
        fingerprint=_fingerprint(manifest, parameters),
        description=manifest.description,
        licence=manifest.licence,
        source=manifest.source,
    )


def _fingerprint(manifest: HeadManifest, parameters: Table) -> str:
    """Return 32 hexadecimal digits of a hash of everything that changes the results."""
    features = parameters.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps([SCHEMA, manifest.kind, manifest.sha256, features], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]
