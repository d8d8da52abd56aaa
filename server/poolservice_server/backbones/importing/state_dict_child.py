"""Converts a state dict to safetensors: the program of a child process with limited memory and no network.

It runs by its path with `python -I`, so it imports nothing of this package. It prints one JSON object:
{"network": whether it could have used the network} and, if it failed, {"error": a sentence without the file's name}.
"""

import ctypes
import json
import os
import pickle
import re
import resource
import sys
from collections.abc import Mapping
from typing import Any

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_NO_NEW_PRIVS = 38

# The keys under which checkpoints of training programs have the state dict. Averaged weights come first.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "module")
_DAMAGED = "is damaged, or is no state dict that torch.save wrote"
# What wrappers such as DataParallel and torch.compile put in front of each name.
_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")


def main() -> int:
    """Convert the file argv[1] to the file argv[2], with argv[3] bytes of memory for it."""
    source, target, memory_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    report: dict[str, Any] = {"network": not _leave_network()}
    # torch is imported before memory is limited, because its size does not depend on the file.
    import torch
    from safetensors.torch import save_file

    _limit(memory_bytes)
    try:
        save_file(_tensors(_loaded(source), torch.Tensor), target)
    except pickle.UnpicklingError as error:
        report["error"] = _pickle_reason(str(error))
    except (MemoryError, RuntimeError) as error:
        report["error"] = _runtime_reason(error, memory_bytes)
    except _Unusable as error:
        report["error"] = str(error)
    print(json.dumps(report))  # noqa: T201 - the result for the parent process
    return 0


class _Unusable(Exception):
    pass


def _loaded(source: str) -> object:
    import torch

    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, MemoryError, RuntimeError):
        raise
    except Exception:  # noqa: BLE001 - a damaged file can make the unpickler raise anything
        raise _Unusable(_DAMAGED) from None


def _leave_network() -> bool:
    """Move into a network namespace without interfaces; return False if the kernel does not permit it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _limit(memory_bytes: int) -> None:
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_AS: size + memory_bytes,
        resource.RLIMIT_FSIZE: memory_bytes,
        resource.RLIMIT_CORE: 0,
        # No new processes or threads. The kernel exempts root.
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _tensors(loaded: object, tensor_type: type[Any]) -> dict[str, Any]:
    """Return the tensors of a state dict or of a checkpoint that contains one."""
    for key in _KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise _Unusable(f"contains a {type(loaded).__name__} instead of a state dict; save model.state_dict()")
    tensors = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, tensor_type):
            raise _Unusable(
                f"contains {name!r}: {type(value).__name__} where a state dict has tensors; save model.state_dict()"
            )
        # safetensors neither shares memory between tensors nor keeps strides.
        tensors[_PREFIX.sub("", name)] = value.detach().clone(memory_format=_contiguous())
    if not tensors:
        raise _Unusable("contains no tensors; save model.state_dict()")
    return tensors


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format


def _pickle_reason(message: str) -> str:
    name = re.search(r"GLOBAL ([\w.]+)", message)
    if name is not None:
        return (
            f"needs {name.group(1)} to be loaded, which is code and not weights; if you trust the file, "
            "load it and save model.state_dict()"
        )
    return _DAMAGED


def _runtime_reason(error: BaseException, memory_bytes: int) -> str:
    if isinstance(error, MemoryError) or "memory" in str(error):
        return f"needs more than {memory_bytes >> 20} MiB of memory, several times its own size"
    return _DAMAGED


if __name__ == "__main__":
    sys.exit(main())
