"""The cpio archives, and the guest's test program run as an ordinary program."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmbus.inet.pattern import pattern
from vmbus.linux.cpio import Archive
from vmbus.linux.errors import GuestNotStarted
from vmbus.linux.initramfs import build_program, directory_initramfs, script_archive, standard_initramfs

pytestmark = pytest.mark.linux


def listing(archive: bytes, path: Path) -> dict[str, str]:
    """What busybox' cpio says is in an archive: type and mode by name (of a link: with its target)."""
    path.write_bytes(archive)
    shown = subprocess.run(["busybox", "cpio", "-tv", "-F", path], capture_output=True, text=True, check=True).stdout
    return {name: mode for mode, name in re.findall(r"^([-dlcb]\S+) .*?\d\d:\d\d:\d\d (.*)$", shown, re.MULTILINE)}


def test_an_archive_is_read_by_other_programs(tmp_path: Path) -> None:
    archive = Archive()
    archive.directory("bin")
    archive.file("bin/tool", b"#!/bin/sh\n", 0o755)
    archive.symlink("sh", "bin/tool")
    (tmp_path / "a.cpio").write_bytes(archive.finish())
    subprocess.run(["busybox", "cpio", "-id", "-F", "a.cpio"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "sh").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755


def test_the_standard_initramfs_has_an_init_and_a_shell_and_is_made_once(tmp_path: Path) -> None:
    path = standard_initramfs()
    names = listing(path.read_bytes(), tmp_path / "copy")
    assert names["bin/busybox"].startswith("-rwx") and names["dev/console"].startswith("c")
    assert "init -> bin/vmbus-guest-test" in names and "bin/sh -> busybox" in names
    before = path.stat().st_mtime_ns
    assert standard_initramfs().stat().st_mtime_ns == before


def test_a_script_becomes_a_file_of_its_own_archive(tmp_path: Path) -> None:
    data = script_archive(["report", "exit 3"])
    assert b"report\nexit 3\n" in data and len(data) % 512 == 0
    assert list(listing(data, tmp_path / "copy")) == ["etc/vmbus-script"]


def test_a_users_directory_is_packed_with_the_devices_that_a_kernel_wants(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "init").symlink_to("bin/busybox")
    (root / "etc/motd").write_text("hello")
    names = listing(directory_initramfs(root), tmp_path / "copy")
    assert {"etc/motd", "dev/console", "dev/null"} <= set(names)
    (root / "init").unlink()
    with pytest.raises(GuestNotStarted, match="no init"):
        directory_initramfs(root)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(build_program()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 4096, 1_000_003])
def test_the_programs_pattern_and_digest_are_pythons(tmp_path: Path, size: int) -> None:
    written = run("write-file", tmp_path / "f", size, 7)
    assert (tmp_path / "f").read_bytes() == pattern(7, size)
    assert f"sha256={hashlib.sha256(pattern(7, size)).hexdigest()}" in written.stdout
    assert run("read-file", tmp_path / "f", size, 7).stdout == "TEST read-file ok\n"


def test_a_wrong_byte_is_found(tmp_path: Path) -> None:
    run("write-file", tmp_path / "f", 100_000, 7)
    with (tmp_path / "f").open("r+b") as file:
        file.seek(70_000)
        file.write(b"\0")
    found = run("read-file", tmp_path / "f", 100_000, 7)
    assert found.returncode == 1 and found.stdout.startswith("TEST read-file fail error=wrong_data")


def test_the_verified_load_says_the_digest_of_what_it_left(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 << 20))
    loaded = run("disk-load", disk, 1, 3, 5)
    match = re.search(r"size=(\d+) sha256=(\w+)", loaded.stdout)
    assert loaded.returncode == 0 and match
    assert hashlib.sha256(disk.read_bytes()[: int(match[1])]).hexdigest() == match[2]


def test_nonsense_is_a_failure_not_a_crash() -> None:
    assert run("no-such-command").stdout == "TEST no-such-command fail error=unknown_command_no-such-command\n"
    assert run("sha256").returncode == 1
    assert run("write-file", "/dev/null", "x").returncode == 2
    assert "disk-load" in run().stdout and shutil.which("busybox")
