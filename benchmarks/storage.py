"""Our disk under a real Linux guest, beside the disks that people would use instead: same kernel, same file, one run.

Peers: ``qemu-storage-daemon``'s vhost-user-blk over ``virtio_uml`` (a C program), and User-Mode Linux' own ``ubd``
(no second process at all). Each round boots the guest once with each of the three, in another order each time, on one
file in the host's page cache; in a tmpfs, if there is one, so that nobody writes dirty pages to a disk meanwhile. A row
is one measurement of the guest's test program, medians over the rounds; of sequential passes over the file, which are
short, the median of several in each boot.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Row, quick, row
from vmbus.errors import VmbusError
from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION

DISK_MEBIBYTES = 512
ROUNDS = 7
PASSES = 5
"""Over the whole file, in each direction and each boot."""
SECONDS = 2

_RESULT = re.compile(r"TEST (\S+) ok .*?(?:mb_per_s|iops)=([0-9.]+)")

MEASUREMENTS = {
    "seqr": ("sequential reads of 1 MiB", "MB/s"),
    "seqw": ("sequential writes of 1 MiB", "MB/s"),
    **{
        f"{kind}{depth}": (f"random {word} of 4 KiB, {depth} outstanding", "requests/s")
        for kind, word in (("r", "reads"), ("w", "writes"))
        for depth in (1, 8, 32)
    },
}


class GuestFailed(VmbusError):
    """The guest did not do what it was told to."""


class WithoutVmbus(GuestOptions):
    """A guest that connects to no host of ours."""

    def command_line(self, directory: Path) -> list[str]:
        return [argument for argument in super().command_line(directory) if not argument.startswith("vmbus=")]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to have a disk: what it is called in the guest, and how it is started."""

    device: str
    start: Callable[[ExitStack, Path, Path], GuestOptions]


def rows() -> Iterator[Row]:
    """Ours against vhost-user-blk, then ours against ubd."""
    kernel = build_kernel(DEFAULT_VERSION, Variant.PLAIN)
    contenders = {"ours": Contender("/dev/sda", _ours), "ubd": Contender("/dev/ubda", _ubd)}
    if shutil.which("qemu-storage-daemon"):
        contenders["vhost-user-blk"] = Contender("/dev/vda", _vhost_user)
    series: dict[str, dict[str, list[float]]] = {name: {one: [] for one in MEASUREMENTS} for name in contenders}
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-", dir=_memory()) as name:
        image = Path(name) / "disk.img"
        _fill(image)
        order = list(contenders)
        for _ in range(1 if quick() else ROUNDS):
            for contender in order:
                os.sync()
                for measurement, value in _run(contenders[contender], kernel, image).items():
                    series[contender][measurement].append(value)
            order.append(order.pop(0))
    for peer in ("vhost-user-blk", "ubd"):
        for measurement, (title, unit) in MEASUREMENTS.items():
            if peer in series:
                yield row(f"{title}, against {peer}", unit, series["ours"][measurement], series[peer][measurement])


def _memory() -> str | None:
    """A directory in memory with room for the file; None for the usual place of temporary files."""
    try:
        return "/dev/shm" if shutil.disk_usage("/dev/shm").free > 2 * DISK_MEBIBYTES << 20 else None
    except OSError:
        return None


def _fill(image: Path) -> None:
    """A file of random bytes, all of it allocated and in the page cache."""
    piece = os.urandom(1 << 20)
    with image.open("wb") as file:
        for _ in range(DISK_MEBIBYTES):
            file.write(piece)
        os.fsync(file.fileno())


def _script(device: str) -> list[str]:
    seconds = 1 if quick() else SECONDS
    mebibytes = 64 if quick() else DISK_MEBIBYTES
    return [
        f"wait-path {device} 10",
        f"throughput {device} r 64",
        *[f"@seqr throughput {device} r {mebibytes}", f"@seqw throughput {device} w {mebibytes}"] * PASSES,
        *(f"@{kind}{depth} iops {device} {seconds} {depth} 4096 {kind}" for kind in "rw" for depth in (1, 8, 32)),
    ]


def _run(contender: Contender, kernel: Path, image: Path) -> dict[str, float]:
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="vmbus-bench-run-") as name:
        options = contender.start(stack, Path(name), image)
        options.kernel = kernel
        options.script = _script(contender.device)
        with LinuxGuest(options) as guest:
            guest.wait(180)
        found: dict[str, list[float]] = {}
        for match in filter(None, map(_RESULT.match, guest.lines)):
            found.setdefault(match[1], []).append(float(match[2]))
        missing = MEASUREMENTS.keys() - found.keys()
        if missing:
            raise GuestFailed(
                f"{contender.device} gave no {', '.join(sorted(missing))}: {' / '.join(guest.lines[-3:])}"
            )
        return {measurement: statistics.median(found[measurement]) for measurement in MEASUREMENTS}


def _start(stack: ExitStack, command: list[str], socket: Path) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + 20
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise GuestFailed(f"{command[0]} does not start")
        time.sleep(0.02)


def _ours(stack: ExitStack, directory: Path, image: Path) -> GuestOptions:
    socket = directory / "s"
    _start(stack, [sys.executable, "-m", "vmbus", "host", f"unix:{socket}", "--scsi", str(image)], socket)
    return GuestOptions(f"unix:{socket}", Path())


def _vhost_user(stack: ExitStack, directory: Path, image: Path) -> GuestOptions:
    socket = directory / "s"
    blockdev = f"driver=file,node-name=f,filename={image}"
    export = f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket},writable=on"
    _start(stack, ["qemu-storage-daemon", "--blockdev", blockdev, "--export", export], socket)
    return WithoutVmbus("unix:none", Path(), append=[f"virtio_uml.device={socket}:2"])


def _ubd(stack: ExitStack, directory: Path, image: Path) -> GuestOptions:
    return WithoutVmbus("unix:none", Path(), append=[f"ubd0={image}"])
