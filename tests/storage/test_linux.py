"""Linux's own SCSI drivers on our controllers: sd and sr find, use, lose and notice what they should."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.spec import parse_disk_option
from vmbus.inet.pattern import pattern
from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.testing.hosts import RunningHost
from vmbus.testing.iso import build_iso
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

pytestmark = pytest.mark.linux

StartHost = Callable[..., RunningHost]

needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd (qemu-utils) is not installed")
needs_nbdkit = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")

NBD_SERVERS = {
    "qemu-nbd": ["qemu-nbd", "-t", "-f", "raw", "-k", "{socket}", "{file}"],
    "nbdkit": ["nbdkit", "-f", "-U", "{socket}", "file", "{file}"],
}

COMPLAINTS = ("I/O error", "Sense Key", "storvsc: tag", "rejected", "DID_", "hung task")


def complaints(guest: LinuxGuest) -> list[str]:
    """Lines of the kernel's log that a sound disk never causes."""
    return [line for line in guest.lines if any(word in line for word in COMPLAINTS)]


@contextmanager
def nbd_server(command: list[str], socket: Path, file: Path) -> Iterator[None]:
    """Serves ``file`` at ``socket``, from when it listens until the end."""
    with subprocess.Popen([word.format(socket=socket, file=file) for word in command]) as server:
        try:
            while not socket.exists():
                assert server.poll() is None
                time.sleep(0.01)
            yield
        finally:
            server.kill()


def wait_for_disks(letters: str) -> list[str]:
    """Lines of a script; all are waited for, because sd looks at its disks side by side and is done in any order."""
    return [f"wait-path /dev/sd{letter} 120" for letter in letters]


def controller_of(host: RunningHost) -> StorageController:
    return cast("StorageController", host.host.slots[0].device)


@pytest.mark.parametrize(
    "disk",
    [
        "file:{path},create=64M",
        "memory:64M",
        "file:{path},create=64M,sector=4096",
        "file:{path},create=64M,sector=512e",
        "overlay:{path}",
        "faulty:memory:64M,slow=0.001,every=50",
        "powercut:{path}",
        pytest.param("{folder}/disk.qcow2", marks=needs_qemu),
        pytest.param("{folder}/disk.vhdx", marks=needs_qemu),
        pytest.param("nbd:unix:{folder}/qemu-nbd", marks=needs_qemu),
        pytest.param("nbd:unix:{folder}/nbdkit", marks=needs_nbdkit),
    ],
)
def test_a_verified_random_load_runs_without_one_complaint(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path, disk: str
) -> None:
    path = tmp_path / "disk.img"
    if "create" not in disk:
        with path.open("wb") as file:
            file.truncate(64 << 20)
    with ExitStack() as servers:
        if disk.endswith((".qcow2", ".vhdx")):
            kind = disk.rpartition(".")[2]
            subprocess.run(["qemu-img", "create", "-q", "-f", kind, tmp_path / f"disk.{kind}", "64M"], check=True)
        for name, command in NBD_SERVERS.items():
            if disk.endswith(name):
                servers.enter_context(nbd_server(command, tmp_path / name, path))
        host = running_host(make_devices(disks=[disk.format(path=path, folder=tmp_path)]))
        guest = linux_guest(host.address, ["wait-path /dev/sda 120", "disk-load /dev/sda 2 8 7"])
        assert guest.wait(240) == ExitStatus.DONE
        assert complaints(guest) == []


def test_linux_sees_sectors_cache_and_discard_as_they_are(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    path = tmp_path / "d"
    disks = [f"file:{path},create=64M,sector=512e", "memory:64M,sector=4096", "memory:64M,readonly"]
    host = running_host(make_devices(disks=disks))
    queue = "/sys/block/{}/queue/{}"
    guest = linux_guest(
        host.address,
        [
            *wait_for_disks("abc"),
            "expect " + queue.format("sda", "logical_block_size") + " 512",
            "expect " + queue.format("sda", "physical_block_size") + " 4096",
            "sh grep -q 'write back' " + queue.format("sda", "write_cache"),
            "expect " + queue.format("sda", "discard_granularity") + " 4096",
            "expect " + queue.format("sda", "fua") + " 1",
            "expect " + queue.format("sda", "rotational") + " 0",
            "expect " + queue.format("sdb", "logical_block_size") + " 4096",
            "expect /sys/block/sdc/ro 1",
            "sh grep -q Msft /sys/block/sda/device/vendor",
        ],
    )
    assert guest.wait(240) == ExitStatus.DONE
    assert complaints(guest) == []


def test_disks_come_go_and_grow_while_linux_uses_another(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    host = running_host(make_devices(disks=[f"file:{tmp_path / 'a'},create=64M"]))
    controller = controller_of(host)
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            "background disk-load /dev/sda 4 4 1 32M",
            "say load-runs",
            "wait-path /dev/sdb 120",
            "disk-fill /dev/sdb 0 1M 5",
            "say added",
            "wait-gone /dev/sdb 120",
            "say removed",
            "sh for i in $(seq 1200); do grep -q 262144 /sys/block/sda/size && exit 0; sleep 0.1; done; exit 1",
            "wait",
        ],
    )
    guest.wait_for_line("load-runs", 120)
    extra = parse_disk_option("memory:8M").open()
    host.in_host(lambda: controller.add(UnitAddress(0, 0, 1), extra))
    guest.wait_for_line("added", 120)
    host.in_host(lambda: controller.remove(UnitAddress(0, 0, 1)).close())
    guest.wait_for_line("removed", 120)
    backend = controller.units[UnitAddress(0, 0, 0)].backend
    assert isinstance(backend, FileBackend)
    host.in_host(lambda: backend.resize(128 << 20))
    assert guest.wait(240) == ExitStatus.DONE


FIND_FIRST_DISK = (
    "sh for i in $(seq 1200); do disk=$(ls /sys/bus/scsi/devices/*:0:0:0/block);"
    " test -b /dev/$disk && exec ln -s /dev/$disk /dev/first; sleep 0.1; done; exit 1"
)
"""Which name it gets, nobody knows: sda is the old disk's as long as a process has that open."""


def test_a_controller_is_taken_away_in_use_and_comes_back(running_host: StartHost, linux_guest: StartGuest) -> None:
    host = running_host(make_devices(disks=["memory:64M", "faulty:memory:8M,on=read,do=stuck,from=4M"]))
    slot = host.host.slots[0]
    guest = linux_guest(
        host.address,
        [
            *wait_for_disks("ab"),
            "background disk-load /dev/sda 600 4 1",
            "background sh dd if=/dev/sdb of=/dev/null bs=4096 skip=1024 count=1 iflag=direct",
            "say in-use",
            "wait-gone /sys/class/scsi_host/host0 120",
            "say all-gone",
            FIND_FIRST_DISK,
            "@again disk-load /dev/first 1 4 2",
            "say came-back",
            "exit 0",
        ],
    )
    guest.wait_for_line("in-use", 120)
    stuck = controller_of(host).units[UnitAddress(0, 0, 1)]
    assert until(lambda: host.in_host(lambda: stuck.outstanding), 120)
    host.in_host(slot.rescind)
    guest.wait_for_line("all-gone", 120)
    host.in_host(slot.reoffer)
    guest.wait_for_line("came-back", 120)
    assert any(line.startswith("TEST again ok") for line in guest.lines)
    assert guest.wait(240) == ExitStatus.DONE


def test_a_host_with_a_terabyte_stays_small(linux_guest: StartGuest, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    disk = f"file:{tmp_path / 'huge'},create=1T"
    command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", disk]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None and host.stdout.readline()
            guest = linux_guest(
                address,
                ["wait-path /dev/sda 120", "disk-load /dev/sda 2 16 7 64M", "disk-load /dev/sda 1 4 7 64M 1023G"],
            )
            assert guest.wait(240) == ExitStatus.DONE
            status = Path(f"/proc/{host.pid}/status").read_text()
        finally:
            host.terminate()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 64 << 10


def test_linux_mounts_a_dvd_and_notices_another_disc(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    contents = [random.Random(seed).randbytes(300_000 + seed) for seed in range(2)]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.iso").write_bytes(build_iso({"DATA.BIN": content}))
    host = running_host(make_devices(disks=[f"{tmp_path / '0.iso'},dvd"]))
    drive = cast("ScsiDvd", controller_of(host).units[UnitAddress(0, 0, 0)])
    sums = [hashlib.sha256(content).hexdigest() for content in contents]
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sr0 120",
            "mount /dev/sr0 /mnt iso9660 ro",
            f"sha256 /mnt/data.bin {sums[0]}",
            "umount /mnt",
            "say other-disc-please",
            "@changed sh read line",
            "mount /dev/sr0 /mnt iso9660 ro",
            f"sha256 /mnt/data.bin {sums[1]}",
            "umount /mnt",
        ],
    )
    guest.wait_for_line("other-disc-please", 120)
    disc = FileBackend(str(tmp_path / "1.iso"), read_only=True)
    host.in_host(lambda: drive.change_disc(disc, force=True))
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE


def test_what_linux_discards_becomes_holes_in_the_file(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    path = tmp_path / "d"
    host = running_host(make_devices(disks=[f"file:{path},create=32M"]))
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            "disk-fill /dev/sda 0 32M 3",
            "sync",
            "say all-written",
            "sh blkdiscard -o 8388608 -l 16777216 /dev/sda",
            "disk-verify /dev/sda 0 8M 3",
        ],
    )
    guest.wait_for_line("all-written", 120)
    assert guest.wait(240) == ExitStatus.DONE
    assert path.stat().st_blocks * 512 <= 17 << 20
    assert complaints(guest) == []


def test_errors_below_the_disk_reach_linux_as_errors_and_only_there(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    disks = [
        "faulty:memory:16M,on=read,do=EIO,from=8M,to=9M",
        "memory:16M",
        "faulty:memory:16M,on=write,do=ENOSPC,from=8M",
    ]
    host = running_host(make_devices(disks=disks))
    guest = linux_guest(
        host.address,
        [
            *wait_for_disks("abc"),
            "disk-fill /dev/sda 0 4M 1",
            "disk-verify /dev/sda 0 4M 1",
            "sh ! dd if=/dev/sda of=/dev/null bs=4096 skip=2048 count=1 iflag=direct",
            "sh ! dd if=/dev/zero of=/dev/sdc bs=4096 seek=2048 count=1 oflag=direct",
            "disk-load /dev/sdb 1 4 9",
        ],
    )
    assert guest.wait(240) == ExitStatus.DONE
    assert any("critical medium error" in line for line in guest.lines)
    assert any("critical space allocation error" in line for line in guest.lines)


def test_a_stuck_disk_does_not_stop_another(running_host: StartHost, linux_guest: StartGuest) -> None:
    host = running_host(make_devices(disks=["faulty:memory:16M,on=read,do=stuck,from=8M", "memory:64M"]))
    guest = linux_guest(
        host.address,
        [
            *wait_for_disks("ab"),
            "background sh dd if=/dev/sda of=/dev/null bs=4096 skip=2048 count=1 iflag=direct",
            "background sh dd if=/dev/sda of=/dev/null bs=4096 skip=2049 count=1 iflag=direct",
            "say reading",
            "@both sh read line",
            "@load disk-load /dev/sdb 2 8 1",
            "say finished",
            "exit 0",
        ],
    )
    guest.wait_for_line("reading", 120)
    unit = controller_of(host).units[UnitAddress(0, 0, 0)]
    assert until(lambda: host.in_host(lambda: unit.outstanding) == 2, 120)
    guest.write_line("")
    guest.wait_for_line("finished", 120)
    assert any(line.startswith("TEST load ok") for line in guest.lines)
    assert host.in_host(lambda: unit.outstanding) == 2


def test_disks_on_every_controller_target_and_path_are_found(running_host: StartHost, linux_guest: StartGuest) -> None:
    disks = [
        "memory:4M", "memory:5M,target=1,lun=7", "memory:6M,path=3", "memory:7M,controller=1,lun=200",
        "memory:8M,controller=ide0", "memory:9M,controller=ide1,target=1",
    ]  # fmt: skip
    host = running_host(make_devices(disks=disks))
    guest = linux_guest(
        host.address, [*wait_for_disks("abcdef"), "sh cat /sys/block/sd?/size | sort -n | tr '\\n' ' '"]
    )
    assert guest.wait(240) == ExitStatus.DONE
    sizes = " ".join(str(size * 2048) for size in range(4, 10))
    assert any(sizes in line for line in guest.lines), guest.lines
    assert complaints(guest) == []


def test_a_power_cut_under_ext4_leaves_a_file_system_that_repairs_itself(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    path = tmp_path / "ext4.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(path)], check=True)
    host = running_host(make_devices(disks=[f"powercut:{path}"]))
    unit = cast("ScsiDisk", controller_of(host).units[UnitAddress(0, 0, 0)])
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            "mount /dev/sda /mnt ext4",
            "write-file /mnt/kept 4M 1",
            "sync",
            "say synced",
            "sh i=0; while true; do i=$((i+1)); cp /mnt/kept /mnt/f$i || break; done",
        ],
    )
    guest.wait_for_line("synced", 120)
    backend = unit.backend
    host.in_host(lambda: backend.cut_power(random.Random(3)))  # type: ignore[union-attr]
    guest.kill()
    subprocess.run(["e2fsck", "-fp", str(path)], capture_output=True)
    checked = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    copy = tmp_path / "copy"
    subprocess.run(["debugfs", "-R", f"dump /kept {copy}", str(path)], check=True, capture_output=True)
    assert copy.read_bytes() == pattern(1, 4 << 20)
