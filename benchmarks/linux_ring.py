"""Builds the peer of our rings: Linux's user-space ring with ``ring_peer.c`` around it, as a program in the cache.

The two files come from the Debian package ``linux-source-6.12`` (``tools/hv/vmbus_bufring.[ch]``; Linux 6.10 and
later have them). ``VMBUS_LINUX_SOURCE`` names another tarball or tree. Nothing of Linux is kept in this repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from vmbus.errors import VmbusError

FILES = ("vmbus_bufring.c", "vmbus_bufring.h")
TARBALL = Path("/usr/src/linux-source-6.12.tar.xz")
WRAPPER = Path(__file__).with_name("ring_peer.c")


class LinuxRingUnavailable(VmbusError):
    """The peer cannot be built here; the message says what is missing."""


def cache_directory() -> Path:
    """Where programs that were built are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmbus" / "linux-ring"


def build() -> Path:
    """Return the program, built if it is not in the cache yet. The first time takes some seconds: the tarball is
    long.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LinuxRingUnavailable("building Linux's user-space ring needs a C compiler (cc)")
    source = Path(os.environ.get("VMBUS_LINUX_SOURCE") or TARBALL)
    if not source.exists():
        raise LinuxRingUnavailable(f"{source} is not there: install linux-source-6.12 or set VMBUS_LINUX_SOURCE")
    directory = cache_directory() / _digest(f"{source.resolve()} {source.stat().st_mtime_ns}".encode())
    program = directory / f"ring_peer-{_digest(WRAPPER.read_bytes())}"
    if not program.exists():
        directory.mkdir(parents=True, exist_ok=True)
        if not all((directory / name).exists() for name in FILES):
            _unpack(source, directory)
        building = directory / f"{program.name}.{os.getpid()}"
        command = [compiler, "-O2", "-w", "-I", str(directory), "-o", str(building)]
        command += [str(WRAPPER), str(directory / "vmbus_bufring.c")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise LinuxRingUnavailable(
                f"cannot compile Linux's user-space ring: {result.stderr.strip().splitlines()[0]}"
            )
        building.rename(program)
    return program


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _unpack(source: Path, directory: Path) -> None:
    if source.is_dir():
        for name in FILES:
            shutil.copy(source / "tools" / "hv" / name, directory / name)
        return
    missing = set(FILES)
    with tarfile.open(source, "r|*") as archive:
        for member in archive:
            path = Path(member.name)
            if path.name in missing and path.parts[1:3] == ("tools", "hv"):
                content = archive.extractfile(member)
                assert content is not None
                (directory / path.name).write_bytes(content.read())
                missing.remove(path.name)
                if not missing:
                    return
    raise LinuxRingUnavailable(f"{source} has no tools/hv/{min(missing)}: Linux 6.10 or later is needed")
