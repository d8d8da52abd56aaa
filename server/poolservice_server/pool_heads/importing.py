"""Writes a head's folder from a checkpoint: finds the head's tensors among those of the whole network."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from poolservice_server.backbones.folder_files import BrokenFile
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.new_folder import new_folder
from poolservice_server.backbones.importing.toml_text import toml_text
from poolservice_server.backbones.importing.torch_import import read_tensors
from poolservice_server.backbones.manifest_file import explain
from poolservice_server.foreign_text import quote
from poolservice_server.pool_heads.folder import read_head
from poolservice_server.pool_heads.head import PoolHead
from poolservice_server.pool_heads.kinds import KINDS
from poolservice_server.pool_heads.manifest import FILE_NAME, SCHEMA

_WEIGHTS_FILE = "head.safetensors"
_MOST_LISTED = 5

#: The names of the tensors in other libraries' checkpoints, by kind. Where a name stands for several tensors, these
#: are joined. All other checkpoints have the names of the authors' code, which a head's file has, too.
OTHER_NAMES: Mapping[str, tuple[Mapping[str, tuple[str, ...]], ...]] = {
    "siglip_map": (
        # timm's AttentionPoolLatent, also in open_clip: visual.trunk.attn_pool.
        {
            "probe": ("latent",),
            "attention.in_proj_weight": ("q.weight", "kv.weight"),
            "attention.in_proj_bias": ("q.bias", "kv.bias"),
            "attention.out_proj.weight": ("proj.weight",),
            "attention.out_proj.bias": ("proj.bias",),
            "layernorm.weight": ("norm.weight",),
            "layernorm.bias": ("norm.bias",),
            **{name: (name,) for name in ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias")},
        },
    ),
}


def import_head(
    checkpoint: Path,
    target: Path,
    kind: str,
    parameters: Mapping[str, Any],
    *,
    prefix: str | None = None,
    description: str = "",
    licence: str,
    source: str,
) -> PoolHead:
    """Write the folder of a head, and return the head as the server reads it.

    Args:
        checkpoint: a safetensors file, or a state dict or checkpoint that torch.save wrote.
        target: the new folder.
        kind: the kind of head.
        parameters: the table [parameters] of its `head.toml`.
        prefix: what the names of the head's tensors begin with in the checkpoint, such as "aggregator."; None finds it.
        description: what the head is.
        licence: the licence of its weights.
        source: where it comes from.

    Raises:
        ImportFailed: the checkpoint cannot be read or has no such head, or a value is wrong.
    """
    if kind not in KINDS:
        raise ImportFailed(f"--kind must be one of {', '.join(KINDS)}; got {quote(kind)}")
    tensors, _ = read_tensors(checkpoint)
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    weights = _head_of(arrays, kind, _needed(kind, parameters), prefix, str(checkpoint))
    with new_folder(target) as folder:
        manifest = {
            "schema": SCHEMA,
            "kind": kind,
            **({"description": description} if description else {}),
            "licence": licence,
            "source": source,
            **folder.add_tensors(_WEIGHTS_FILE, weights),
            **({"parameters": parameters} if parameters else {}),
        }
        (folder.path / FILE_NAME).write_text(toml_text(manifest), encoding="utf-8")
        try:
            return read_head(folder.path, target.absolute().name)
        except BrokenFile as error:
            raise ImportFailed(f"the server would refuse the new head: {error}") from None


def _needed(kind: str, parameters: Mapping[str, Any]) -> Collection[str]:
    """Return the names of the tensors that a file of this kind must have."""
    try:
        return KINDS[kind].tensors(KINDS[kind].parameters.model_validate(parameters)).needed
    except ValidationError as error:
        raise ImportFailed(f"--parameter: {explain(error, KINDS[kind].parameters)}") from None


def _head_of(
    arrays: Mapping[str, np.ndarray], kind: str, needed: Collection[str], prefix: str | None, checkpoint: str
) -> dict[str, np.ndarray]:
    """Return the tensors of the head, by their names in its file."""
    namings = ({name: (name,) for name in needed}, *OTHER_NAMES.get(kind, ()))
    for naming in namings:
        names = [part for parts in naming.values() for part in parts]
        starts = {name.removesuffix(names[0]) for name in arrays if name.endswith(names[0])}
        found = sorted(
            start for start in starts if prefix in (None, start) and all(f"{start}{name}" in arrays for name in names)
        )
        if len(found) > 1:
            raise ImportFailed(
                f"{checkpoint}: has several such heads; choose one with --prefix "
                f"{quote(' or '.join(found[:_MOST_LISTED]))}"
            )
        if found:
            return _renamed(arrays, naming, found[0])
    where = "" if prefix is None else f" behind the prefix {quote(prefix)}"
    raise ImportFailed(
        f"{checkpoint}: has no {kind}: it lacks one of {', '.join(sorted(needed)[:_MOST_LISTED])} ...{where}; it has "
        f"{quote(', '.join(list(arrays)[:_MOST_LISTED]))} ..."
    )


def _renamed(
    arrays: Mapping[str, np.ndarray], naming: Mapping[str, tuple[str, ...]], prefix: str
) -> dict[str, np.ndarray]:
    """Return the tensors behind a prefix. Those that the naming does not have keep their names, so none gets lost."""
    parts = {part for names in naming.values() for part in names}
    renamed = {
        name: arrays[prefix + names[0]]
        if len(names) == 1
        else np.concatenate([arrays[prefix + part] for part in names])
        for name, names in naming.items()
    }
    others = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return renamed | {name: array for name, array in others.items() if name not in parts}
