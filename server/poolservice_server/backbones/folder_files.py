"""The files of a backbone's folder: opened only inside the folder, and compared with their hashes."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from poolservice_server.backbones.manifest import FILE_NAME, File

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class BrokenFile(Exception):
    """A file of a backbone's folder cannot be used. The message begins with its path in the folder."""


def printable(text: str | Path) -> str:
    """Return a text of the file system with each character escaped that cannot be printed."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def backbones_in(path: Path) -> list[Path]:
    """Return the subfolders that have a backbone.toml, sorted by name, without hidden ones.

    Raises:
        OSError: the folder cannot be read.
    """
    # An import that is killed leaves its unfinished folder, which is hidden.
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    return [path / name for name in names if _may_be_backbone(path / name)]


def backbones_instead_of(path: Path) -> list[Path]:
    """Return the subfolders that are backbones, if the folder itself is none; for suggestions."""
    try:
        return [] if _may_be_backbone(path) else backbones_in(path)
    except OSError:
        # The error that asks for suggestions says so.
        return []


def _may_be_backbone(path: Path) -> bool:
    """Return True if a path is a folder with a backbone.toml, or cannot be read, which `read_folder` reports."""
    try:
        (path / FILE_NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_text_file(folder: Path, name: str, limit: int) -> bytes:
    """Return the content of a file without a hash.

    Raises:
        BrokenFile: the file cannot be read, leads outside the folder, or has more bytes than the limit.
    """
    with _opened(folder, name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BrokenFile(f"{name} must have at most {limit} bytes")
    return content


def read_verified(folder: Path, file: File, limit: int | None = None, *, manifest: str = FILE_NAME) -> bytes:
    """Return the content of a file, whose hash is that of the returned bytes.

    Args:
        folder: the folder.
        file: the file and its hash.
        limit: the most bytes that it may have; None for any number.
        manifest: the file that names the hash, for errors.

    Raises:
        BrokenFile: the file cannot be read, leads outside the folder, has more bytes than the limit, or another hash.
    """
    with _opened(folder, file.file) as opened:
        if limit is not None and (size := os.fstat(opened.fileno()).st_size) > limit:
            raise BrokenFile(f"{file.file} may have {limit} bytes; it has {size}")
        content = opened.read()
    _compare(manifest, file, hashlib.sha256(content).hexdigest(), content[: len(_LFS_POINTER)])
    return content


def verify(folder: Path, file: File) -> None:
    """Compare a file with its hash, without keeping its content in memory.

    Raises:
        BrokenFile: the file cannot be read, leads outside the folder, or has another hash.
    """
    with _opened(folder, file.file) as opened:
        start = opened.peek(len(_LFS_POINTER))
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _compare(FILE_NAME, file, digest, start)


def _compare(manifest: str, file: File, digest: str, start: bytes) -> None:
    if digest == file.sha256:
        return
    if start.startswith(_LFS_POINTER):
        raise BrokenFile(f"{file.file} is only a pointer of Git LFS to the file; fetch it with: git lfs pull")
    raise BrokenFile(
        f"{file.file} is tampered or truncated, or is another file: its sha256 is {digest}, but {manifest} says "
        f"{file.sha256}"
    )


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Open a file inside the folder for the block, and name it if it cannot be opened or read."""
    try:
        # Symbolic links are fine within the folder: mounted volumes of Kubernetes consist of them.
        resolved = (folder / name).resolve(strict=True)
        if not resolved.is_relative_to(folder.resolve(strict=True)):
            raise BrokenFile(f"{name} is a link that leads out of the folder; copy the file into the folder instead")
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BrokenFile(f"{name} must be a file")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenFile(f"{name} is missing") from None
    except IsADirectoryError:
        raise BrokenFile(f"{name} must be a file") from None
    except RuntimeError:
        # Before Python 3.13, of a link that leads to itself.
        raise BrokenFile(f"{name} cannot be read: Too many levels of symbolic links") from None
    except OSError as error:
        raise BrokenFile(f"{name} cannot be read: {error.strerror}") from None
