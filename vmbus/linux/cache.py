"""The user's cache directory, where kernels, their build trees and the guest's programs are kept.

``$XDG_CACHE_HOME/vmbus`` or ``~/.cache/vmbus``. Everything in it can be deleted whenever nothing is being built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vmbus.linux.errors import CacheUnusable


def cache_directory(*parts: str) -> Path:
    """The directory ``parts`` in the cache, made if need be.  Raises :class:`CacheUnusable`."""
    base = os.environ.get("XDG_CACHE_HOME")
    directory = (Path(base) if base else Path.home() / ".cache").joinpath("vmbus", *parts)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = "set XDG_CACHE_HOME to a directory that can be written"
        raise CacheUnusable(f"cannot make the cache {directory}: {error.strerror} ({advice})") from None
    return directory


def content_key(pieces: Iterable[tuple[str, bytes]]) -> str:
    """A short name for named contents: equal contents, equal key."""
    digest = hashlib.sha256()
    for name, content in sorted(pieces):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def file_key(path: Path) -> str:
    """The same for one large file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one process at a time builds in ``directory``; others wait here."""
    descriptor = os.open(directory.with_name(directory.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_if_changed(path: Path, content: bytes) -> bool:
    """Write ``content`` unless it is there already, so that make sees a new time only when something is new."""
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    temporary.replace(path)
    return True
