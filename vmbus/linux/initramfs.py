"""What the guest boots: a static busybox and our own test program, or a directory of the user's.

The standard initramfs is made once and kept in the cache; a run adds an archive of its own with the script of commands.
The test program's sources are in ``guest/``; it is also ``/init`` and documents the script.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vmbus.linux.cache import cache_directory, content_key, locked
from vmbus.linux.cpio import Archive, add_tree
from vmbus.linux.errors import BuildFailed, GuestNotStarted
from vmbus.linux.tools import PROGRAM_TOOLS, require

GUEST_SOURCES = Path(__file__).parent / "guest"
PROGRAM = "vmbus-guest-test"
SCRIPT = "etc/vmbus-script"
_FLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread")
_DIRECTORIES = ("bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var")


def standard_initramfs() -> Path:
    """The archive with busybox and the test program, built if need be. Raises a ``LinuxGuestError``."""
    require(PROGRAM_TOOLS, "making the guest's initramfs")
    busybox = Path(shutil.which("busybox") or "busybox").resolve()
    program = build_program()
    content = busybox.read_bytes()
    key = content_key([("busybox", content), ("program", program.name.encode()), ("layout", b"1")])
    archive_path = cache_directory("initramfs") / f"standard-{key}.cpio"
    if not archive_path.is_file():
        _replace(archive_path, _standard_archive(busybox, content, program.read_bytes()))
    return archive_path


def directory_initramfs(directory: Path) -> bytes:
    """The user's own directory as an archive, with the two device nodes that a kernel wants before ``/init`` runs."""
    if not (directory / "init").exists() and not (directory / "init").is_symlink():
        raise GuestNotStarted(f"{directory} has no init: the kernel runs /init of an initramfs")
    archive = Archive()
    if not (directory / "dev").exists():
        archive.directory("dev")
    add_tree(archive, directory)
    _add_devices(archive)
    return archive.finish()


def script_archive(commands: Iterable[str]) -> bytes:
    """An archive with the commands that ``/init`` runs, to be appended to the standard one."""
    archive = Archive()
    archive.file(SCRIPT, "".join(f"{command}\n" for command in commands).encode())
    return archive.finish()


def shell_archive(commands: bytes) -> bytes:
    """An archive with what a shell reads from its standard input, in ``/init``'s place; its status is the guest's.

    To be appended to the standard one.
    """
    archive = Archive()
    archive.file("stdin", commands)
    line = "sh sh </stdin; status=$?; sync; echo $status >/proc/exitcode; poweroff -f"
    archive.file(SCRIPT, f"{line}\n".encode())
    return archive.finish()


def build_program() -> Path:
    """The static test program, compiled if its sources are new. Raises a ``LinuxGuestError``."""
    sources = sorted(GUEST_SOURCES.glob("*.[ch]"))
    key = content_key([*((file.name, file.read_bytes()) for file in sources), ("flags", " ".join(_FLAGS).encode())])
    program = cache_directory("programs") / f"{PROGRAM}-{key}"
    with locked(program):
        if program.is_file():
            return program
        require({"gcc": "gcc"}, "compiling the guest's test program")
        temporary = program.with_name(f"{program.name}.new")
        inputs = [str(file) for file in sources if file.suffix == ".c"]
        command = ["gcc", *_FLAGS, "-o", str(temporary), *inputs]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode:
            errors = [line for line in compiled.stderr.splitlines() if "error" in line] or ["gcc failed"]
            raise BuildFailed(f"the guest's test program does not compile: {errors[0]}")
        temporary.replace(program)
    return program


def _standard_archive(busybox: Path, busybox_content: bytes, program: bytes) -> bytes:
    archive = Archive()
    for directory in _DIRECTORIES:
        archive.directory(directory)
    for directory in ("sbin", "usr/bin", "usr/sbin"):
        archive.symlink(directory, "/bin")
    archive.file("bin/busybox", busybox_content, 0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in sorted(set(applets) - {"busybox"}):
        archive.symlink(f"bin/{applet}", "busybox")
    archive.file(f"bin/{PROGRAM}", program, 0o755)
    archive.symlink("init", f"bin/{PROGRAM}")
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    _add_devices(archive)
    return archive.finish()


def _add_devices(archive: Archive) -> None:
    archive.device("dev/console", stat.S_IFCHR, 5, 1)
    archive.device("dev/null", stat.S_IFCHR, 1, 3, 0o666)


def _replace(path: Path, content: bytes) -> None:
    with locked(path):
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_bytes(content)
        temporary.replace(path)
