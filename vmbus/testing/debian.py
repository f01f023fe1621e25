"""A minimal Debian as a root image for the Linux guest, and a shell on its console: for tests that need a whole system.

``debootstrap`` makes it once, from the archive and the release that this machine's apt uses, and ``mke2fs -d`` lays it
out without mounting anything; it is kept in the user's cache under a hash of what went in.  Where that cannot be done
(no debootstrap, no root, no archive; ``fakeroot`` is not enough, because the new system's own programs are run in a
mount namespace) tests that ask for the fixture ``debian_image`` are skipped with the reason, and
fail where the environment says ``CI=true``.

    def test_mine(debian_image, running_host, linux_guest):
        host = running_host(make_devices(disks=[str(debian_image)]))
        shell = Shell(linux_guest(host.address, root="/dev/sda", append=["quiet"]))
        shell.log_in()
        assert shell.run("cat /sys/block/sda/device/vendor").output == ["Msft    "]
        shell.power_off()

``python -m vmbus.testing.debian`` makes the image and prints where it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from vmbus.linux.cache import cache_directory, content_key, locked
from vmbus.linux.errors import ImageNotMade, LinuxGuestError
from vmbus.linux.launch import LinuxGuest
from vmbus.linux.tools import require, start_tool
from vmbus.testing.linux import skip_without

PACKAGES = ("systemd-sysv", "python3", "sg3-utils", "libiscsi-bin", "e2fsprogs")
PASSWORD = "vmbus"  # noqa: S105 - of a guest on no network
"""root's."""
ALONE = ("quiet", "rw", "init=/bin/sh")
"""For the kernel's command line: root's shell is all that runs, after half a second instead of five."""
_TOOLS = {
    "apt-get": "apt",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
_SIZE = "1G"
_SET_UP = f"""\
set -e
echo root:{PASSWORD} | chpasswd
echo debian >/etc/hostname
systemctl -q enable console-getty.service
systemctl -q disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
systemctl -q disable e2scrub_all.timer e2scrub_reap.service getty@tty1.service
systemctl -q mask getty-static.service
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
"""
"""Run in the new system: one login, on the console, and nothing that works by the clock."""

Report = Callable[[str], object]


class Archive(NamedTuple):
    """Where Debian's packages come from, and of which release."""

    mirror: str
    suite: str


def find_archive() -> Archive:
    """The first Debian release that apt is configured with. Raises ``ImageNotMade`` if there is none."""
    wanted = "$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        mirror, suite, *kind = line.split()
        if kind == ["Debian", "main"] and "-" not in suite:
            return Archive(mirror, suite)
    raise ImageNotMade("apt knows no release of Debian here (apt-get update may help)")


def build_image(report: Report = lambda line: None) -> Path:
    """The image, made if need be; ``report`` gets a line for each step. Not to be written to.

    Raises a ``LinuxGuestError``.
    """
    require(_TOOLS, "making a Debian image")
    archive = find_archive()
    pieces = {"suite": archive.suite, "packages": " ".join(PACKAGES), "set up": _SET_UP, "size": _SIZE}
    key = content_key((name, text.encode()) for name, text in pieces.items())
    image = cache_directory("debian") / f"{archive.suite}-{key}.ext4"
    with locked(image):
        if not image.is_file():
            if os.geteuid():
                raise ImageNotMade("making a Debian image needs root: debootstrap makes device nodes")
            work = image.with_suffix(".new")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                _make(archive, work, report).replace(image)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return image


def _make(archive: Archive, work: Path, report: Report) -> Path:
    """The new image in ``work``. What debootstrap mounts is mounted for it alone, and gone with it."""
    root, image = work / "root", work / "image"
    packages = f"--include={','.join(PACKAGES)}"
    alone = ["unshare", "--mount"]
    _run([*alone, "debootstrap", "--variant=minbase", packages, archive.suite, str(root), archive.mirror], report)
    (root / "set-up").write_text(_SET_UP)
    _run([*alone, "chroot", str(root), "sh", "/set-up"], report)
    (root / "set-up").unlink()
    _run(["mke2fs", "-q", "-t", "ext4", "-L", "debian", "-d", str(root), str(image), _SIZE], report)
    return image


def _run(command: list[str], report: Report) -> None:
    lines = [""]
    with start_tool(command, **_proxies()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            report(lines[-1])
    if process.returncode:
        raise ImageNotMade(f"no Debian image can be made: {next(filter(None, reversed(lines)), command[0])}")


def _proxies() -> dict[str, str]:
    """The proxy that apt uses, for debootstrap, which does not look there."""
    asked = subprocess.run(["apt-config", "shell", "X", "Acquire::http::Proxy"], capture_output=True, text=True)
    proxy = asked.stdout.strip().removeprefix("X='").removesuffix("'")
    return {"http_proxy": proxy} if proxy and proxy != "DIRECT" else {}


# Files in an image, without mounting it


def put_files(image: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write files into an ext4 image, by their absolute paths in it; the directories are made."""
    commands: list[str] = []
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    commands += [f'mkdir "{folder}"' for folder in sorted(folders, key=lambda one: len(one.parts)) if folder.name]
    sources = image.with_suffix(".put")
    sources.mkdir()
    for number, (name, content) in enumerate(files.items()):
        source = content
        if isinstance(source, bytes):
            source = sources / str(number)
            source.write_bytes(content)  # type: ignore[arg-type]
        commands += [f'rm "{name}"', f'write "{source}" "{name}"']
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(image)], input="\n".join(commands), text=True, capture_output=True, check=True
    )
    shutil.rmtree(sources)


def get_file(image: Path, name: str) -> bytes:
    """The content of a file in an ext4 image; empty if it is not there."""
    return subprocess.run(["debugfs", "-R", f'cat "{name}"', str(image)], capture_output=True, check=True).stdout


# The console


class Finished(NamedTuple):
    """How a command in the guest ended, and the lines that it printed."""

    status: int
    output: list[str]


class Shell:
    """root's shell on the console of a guest that has booted the image.

    Kernel messages would come between: boot it with ``quiet``.
    """

    def __init__(self, guest: LinuxGuest) -> None:
        self.guest = guest
        self._commands = 0

    def log_in(self, timeout: float = 240) -> None:
        """Wait for the login prompt, and log in."""
        self.guest.wait_for_prompt("login: ", timeout)
        self.guest.write_line("root")
        self.guest.wait_for_prompt("Password: ", 240)
        self.guest.write_line(PASSWORD)
        self.guest.wait_for_prompt("# ", 240)
        self._begin()

    def take(self, timeout: float = 60) -> None:
        """The shell of a guest that was booted with ``ALONE``, when it is there."""
        self.guest.wait_for_prompt("# ", timeout)
        self._begin("PATH=/usr/sbin:/usr/bin USER=root ", "mount -t proc proc /proc; mount -t sysfs sysfs /sys; ")

    def _begin(self, variables: str = "", commands: str = "") -> None:
        """Only what commands print is on the console from now on."""
        quiet = f"{commands}stty -echo; dmesg -n 1; echo logged-in:$USER; exec sh"
        self.guest.write_line(f"exec env {variables}PS1= PS2= sh -c '{quiet}'")
        self.guest.wait_for_line("logged-in:root", 240)

    def run(self, command: str, timeout: float = 240) -> Finished:
        """Run a command line of up to about 4,000 characters."""
        self._commands += 1
        begin, end = f"begin-{self._commands}.", f"end-{self._commands}."
        after = len(self.guest.lines)
        self.guest.write_line(f"echo {begin}; {command}\necho {end}$?")
        first = self.guest.wait_for_line(begin, timeout, after=after)
        last = self.guest.wait_for_line(end, timeout, after=first)
        return Finished(int(self.guest.lines[last].partition(end)[2]), self.guest.lines[first + 1 : last])

    def power_off(self, timeout: float = 240) -> int:
        """Shut the system down; the guest's exit status."""
        self.guest.write_line("systemctl poweroff")
        return self.guest.wait(timeout)


# The fixtures


@pytest.fixture(scope="session")
def debian_base(request: pytest.FixtureRequest) -> Path:
    """The image that is kept, for ``overlay:PATH``; not to be written to."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    progress = _Progress()

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():
            progress.show(line)

    try:
        return build_image(report)
    except LinuxGuestError as error:
        skip_without("Debian image", error)


@pytest.fixture
def debian_image(debian_base: Path, tmp_path: Path) -> Path:
    """A copy of the image for one test, sparse, 1 GiB."""
    copy = tmp_path / "debian.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(debian_base), str(copy)], check=True)
    return copy


class _Progress:
    """What the making does, every ten seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, line: str) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + 10
            print(f"making a Debian image: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(build_image(_Progress().show))
    except LinuxGuestError as error:
        sys.exit(f"vmbus: {error}")
