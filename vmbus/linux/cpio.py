"""A writer of cpio archives in the kernel's initramfs format ("newc").

Format: Documentation/driver-api/early-userspace/buffer-format.rst in Linux. Archives can be concatenated: later files
replace earlier ones. Everything belongs to root, so that packing needs no privileges.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class Archive:
    """Grows by ``directory``, ``file``, ``symlink`` and ``device``; ``finish`` returns the bytes.

    Paths are relative to the root, without a leading slash; parents are to be added first.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._entry(path, stat.S_IFDIR | mode)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def device(self, path: str, kind: int, major: int, minor: int, mode: int = 0o600) -> None:
        """``kind`` is ``stat.S_IFCHR`` or ``stat.S_IFBLK``."""
        self._entry(path, kind | mode, device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive, padded so that another can follow."""
        self._entry("TRAILER!!!", 0)
        self._data += bytes(-len(self._data) % 512)
        return bytes(self._data)

    def _entry(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = os.fsencode(path) + b"\0"
        self._inode += 1
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def add_tree(archive: Archive, root: Path, prefix: str = "") -> None:
    """Add everything under ``root``: files, directories, symbolic links and device nodes, with their modes."""
    for entry in sorted(root.iterdir()):
        path = f"{prefix}{entry.name}"
        status = entry.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            archive.directory(path, mode)
            add_tree(archive, entry, f"{path}/")
        elif stat.S_ISLNK(status.st_mode):
            archive.symlink(path, os.readlink(entry))
        elif stat.S_ISREG(status.st_mode):
            archive.file(path, entry.read_bytes(), mode)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            archive.device(path, stat.S_IFMT(status.st_mode), os.major(status.st_rdev), os.minor(status.st_rdev), mode)
