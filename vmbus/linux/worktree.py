"""A kernel tree of our own to build in: a copy of the source, with the shim laid over it and two lines edited.

A tarball is unpacked once. Somebody's own tree is copied once and then brought up to date file by file, by size and
time of modification, so that make rebuilds what was edited and nothing else. Their tree is only ever read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vmbus.linux.cache import write_if_changed
from vmbus.linux.errors import BuildFailed, SourceUnusable
from vmbus.linux.source import KernelSource

SHIM = Path(__file__).parent / "shim"
_SHIM_PLACES = {"hyperv": "arch/um/hyperv", "asm": "arch/um/include/asm"}
_KCONFIG = "arch/um/Kconfig"
_UNPACKED = ".vmbus-unpacked"

_MADE_BY_BUILDS = re.compile(
    r"\.(o|a|ko|cmd|d|order|mod|mod\.c|symvers)$|^\.config|^(\.tmp_)?vmlinux(\.(map|unstripped))?$|^System\.map$"
)
_SKIPPED_DIRECTORIES = re.compile(r"^\.git$|(^|/)include/generated$|^include/config$")


def shim_files() -> dict[str, bytes]:
    """The shim's files, by their place in a kernel tree."""
    return {
        f"{place}/{file.name}": file.read_bytes()
        for folder, place in _SHIM_PLACES.items()
        for file in sorted((SHIM / folder).iterdir())
        if file.suffix in {".c", ".h"} or file.name in {"Kconfig", "Makefile"}
    }


def edited_files(root: Path) -> dict[str, bytes]:
    """The two existing files of the tree at ``root`` that get a line added, with the line.

    Raises ``SourceUnusable`` if they do not look as they do in Linux 6.1 and 6.12.
    """
    kconfig = (root / _KCONFIG).read_text()
    kconfig = _add_line(kconfig, r'^source "arch/um/drivers/Kconfig"$', 'source "arch/um/hyperv/Kconfig"', _KCONFIG)
    # The list of directories moved from the Makefile to the Kbuild file, which was empty before, in Linux 6.2.
    name, after, line = "arch/um/Makefile", r"^ARCH_DIR := arch/um$", "core-y += arch/um/hyperv/"
    kbuild = root / "arch/um/Kbuild"
    if kbuild.is_file() and "os-Linux" in kbuild.read_text():
        name, after, line = "arch/um/Kbuild", r"^obj-y \+= .*os-Linux/.*$", "obj-y += hyperv/"
    objects = _add_line((root / name).read_text(), after, line, name)
    return {_KCONFIG: kconfig.encode(), name: objects.encode()}


def _add_line(text: str, after: str, line: str, name: str) -> str:
    if line in text:
        return text
    edited, count = re.subn(after, lambda match: f"{match.group()}\n{line}", text, count=1, flags=re.MULTILINE)
    if not count:
        raise SourceUnusable(f"{name} of this kernel does not look as in Linux 6.1 or 6.12: no place for the shim")
    return edited


def prepare(source: KernelSource, worktree: Path) -> None:
    """Make ``worktree`` the source with the shim in it, touching only files that differ."""
    if source.is_tree:
        _follow(source.path, worktree)
        edits = edited_files(source.path)
    else:
        _unpack(source.path, worktree)
        edits = edited_files(worktree)
    shim = shim_files()
    for name, content in (shim | edits).items():
        write_if_changed(worktree / name, content)
    for file in (worktree / _SHIM_PLACES["hyperv"]).iterdir():
        if file.relative_to(worktree).as_posix() not in shim:  # of an older shim
            file.unlink()


def _unpack(tarball: Path, worktree: Path) -> None:
    if (worktree / _UNPACKED).exists():
        return
    shutil.rmtree(worktree, ignore_errors=True)
    worktree.mkdir(parents=True)
    command = ["tar", "-x", "--strip-components=1", "-f", str(tarball), "-C", str(worktree)]
    unpacked = subprocess.run(command, capture_output=True, text=True, check=False)
    if unpacked.returncode:
        reason = (unpacked.stderr.strip().splitlines() or ["tar failed"])[-1]
        raise BuildFailed(f"{tarball} cannot be unpacked: {reason}")
    if not (worktree / _KCONFIG).is_file():
        raise SourceUnusable(f"{tarball} does not hold a Linux source tree with arch/um")
    (worktree / _UNPACKED).touch()


def _follow(tree: Path, worktree: Path) -> None:
    """Bring the copy up to date: new and changed files copied, vanished ones deleted, our own left alone."""
    ours = {*shim_files(), *edited_files(tree)}
    wanted: set[str] = set()
    for name, status in _source_files(tree):
        wanted.add(name)
        copy = worktree / name
        if name in ours or _same(copy, status):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.is_symlink() or copy.exists():
            copy.unlink()
        shutil.copy2(tree / name, copy, follow_symlinks=False)
    for name, _ in list(_source_files(worktree)):
        if name not in wanted and name not in ours:
            (worktree / name).unlink()


def _same(copy: Path, status: os.stat_result) -> bool:
    try:
        mine = copy.lstat()
    except FileNotFoundError:
        return False
    return (mine.st_size, mine.st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def _source_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file of the source, with its status; nothing of what builds make."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not _SKIPPED_DIRECTORIES.search(name):
                        pending.append(name)
                elif not _MADE_BY_BUILDS.search(entry.name):
                    yield name, entry.stat(follow_symlinks=False)
