"""Where kernels come from, and the copy of a user's tree that is built."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from vmbus.linux.errors import SourceNotFound, SourceUnusable, ToolsMissing
from vmbus.linux.source import KernelSource, find_source
from vmbus.linux.tools import require
from vmbus.linux.worktree import edited_files, prepare, shim_files

NEW_KBUILD = "obj-y += kernel/ drivers/ os-Linux/\n"
OLD_MAKEFILE = "ARCH_DIR := arch/um\nOS := $(shell uname -s)\n\ncore-y\t\t\t+= $(ARCH_DIR)/kernel/\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel tree in miniature."""
    root = tmp_path / "linux"
    files = {
        "Kconfig": "mainmenu\n",
        "arch/um/Kconfig": 'source "arch/um/drivers/Kconfig"\n\nconfig X\n',
        "arch/um/Kbuild": NEW_KBUILD,
        "arch/um/Makefile": "ARCH_DIR := arch/um\n",
        "arch/arm64/Kconfig": "config ARM64\n",
        "arch/um/kernel/vmlinux.lds.S": "a linker script",
        "vmlinux": "made by a build",
        "drivers/net/hyperv/netvsc.c": "int netvsc;\n",
        "drivers/net/hyperv/netvsc.o": "object",
        "include/generated/autoconf.h": "generated",
        ".git/HEAD": "ref",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def test_a_copy_holds_the_source_the_shim_and_two_more_lines(tree: Path, tmp_path: Path) -> None:
    prepare(KernelSource("mine", tree), tmp_path / "copy")
    copied = {name: content for name, (_, content) in snapshot(tmp_path / "copy").items()}
    assert copied["drivers/net/hyperv/netvsc.c"] == b"int netvsc;\n"
    assert copied["arch/um/Kbuild"] == NEW_KBUILD.encode() + b"obj-y += hyperv/\n"
    assert b'\nsource "arch/um/hyperv/Kconfig"\n' in copied["arch/um/Kconfig"]
    assert set(shim_files()) <= set(copied) and "arch/arm64/Kconfig" in copied
    assert "arch/um/kernel/vmlinux.lds.S" in copied and "vmlinux" not in copied
    assert not any(name.endswith(".o") or name.startswith(("include/gen", ".git")) for name in copied)


def test_the_users_own_tree_is_not_touched(tree: Path, tmp_path: Path) -> None:
    before = snapshot(tree)
    prepare(KernelSource("mine", tree), tmp_path / "copy")
    assert snapshot(tree) == before


def test_only_what_changed_is_copied_again(tree: Path, tmp_path: Path) -> None:
    source, copy = KernelSource("mine", tree), tmp_path / "copy"
    prepare(source, copy)
    before = snapshot(copy)
    (tree / "drivers/net/hyperv/netvsc.c").write_text("int netvsc, edited;\n")
    (tree / "arch/um/Makefile").unlink()
    (copy / "arch/um/hyperv/of_an_older_shim.c").write_text("gone")
    prepare(source, copy)
    after = snapshot(copy)
    assert set(before) - set(after) == {"arch/um/Makefile"} and set(after) <= set(before)
    assert [name for name in after if after[name] != before[name]] == ["drivers/net/hyperv/netvsc.c"]


def test_linux_6_1_has_its_directories_in_the_makefile(tree: Path) -> None:
    (tree / "arch/um/Kbuild").write_text("# SPDX-License-Identifier: GPL-2.0-only\n")
    (tree / "arch/um/Makefile").write_text(OLD_MAKEFILE)
    edited = edited_files(tree)
    assert set(edited) == {"arch/um/Kconfig", "arch/um/Makefile"}
    assert edited["arch/um/Makefile"].startswith(b"ARCH_DIR := arch/um\ncore-y += arch/um/hyperv/\n")


def test_a_tree_without_the_places_for_the_shim_is_refused(tree: Path) -> None:
    (tree / "arch/um/Kconfig").write_text("something else\n")
    with pytest.raises(SourceUnusable, match="arch/um/Kconfig"):
        edited_files(tree)


def test_a_tarball_is_unpacked_once(tree: Path, tmp_path: Path) -> None:
    tarball = tmp_path / "linux-9.9.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(tree, "linux-9.9")
    source = find_source(str(tarball))
    assert (source.name, source.is_tree) == ("linux-9.9", False)
    prepare(source, tmp_path / "copy")
    before = snapshot(tmp_path / "copy")
    prepare(source, tmp_path / "copy")
    assert snapshot(tmp_path / "copy") == before


def test_a_source_is_asked_for_in_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceNotFound, match=r"^no source of Linux 9\.9 here: install the Debian package linux-source"):
        find_source("9.9")
    with pytest.raises(SourceNotFound, match="not a Linux source tree"):
        find_source(str(tmp_path))
    with pytest.raises(SourceNotFound, match="no kernel source at"):
        find_source(str(tmp_path / "missing"))


def test_without_root_the_source_package_is_downloaded_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "usr/src").mkdir(parents=True)
    (content / "usr/src/linux-source-9.9.tar.xz").write_bytes(b"tar")
    (content / "DEBIAN/control").write_text(
        "Package: linux-source-9.9\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: none\n"
    )
    package = tmp_path / "linux-source-9.9_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", content, package], check=True, capture_output=True)
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    apt_get = bin_directory / "apt-get"
    apt_get.write_text(f'#!/bin/sh\n[ "$*" = "download linux-source-9.9" ] && cp {package} .\n')
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = find_source("9.9")
    assert source.path.read_bytes() == b"tar" and not list(tmp_path.glob("cache/**/*.deb"))


def test_missing_tools_are_named_with_their_packages() -> None:
    tools = {"sh": "dash", "no-such-flex": "flex", "no-such-bison": "bison"}
    with pytest.raises(ToolsMissing) as raised:
        require(tools, "building a kernel")
    assert str(raised.value) == (
        "building a kernel needs no-such-flex and no-such-bison: install the Debian packages flex bison"
    )
