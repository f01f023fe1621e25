"""Linux's own conformance tools, in a Debian on our controllers: libiscsi's test suite and sg3-utils, by SG_IO.

One boot for all tests of this file.  docs/storage.md has the table of what passes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import cast

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION
from vmbus.testing.debian import Shell
from vmbus.testing.hosts import RunningHost
from vmbus.testing.iso import build_iso
from vmbus.testing.linux import kernel_or_skip
from vmbus.testing.waiting import until
from vmbus.wire.scsi.inquiry import BlockLimits, VpdHeader, VpdPage

pytestmark = pytest.mark.linux


class Exit(IntEnum):
    """Exit statuses of sg3-utils."""

    NOT_READY = 2
    ILLEGAL_REQUEST = 5
    ATTENTION = 6
    DATA_PROTECT = 7
    INVALID_OPCODE = 9
    MISCOMPARE = 14
    LBA_OUT_OF_RANGE = 22


ALWAYS_FAIL = {
    "CompareAndWrite.Simple",  # libiscsi 1.19 sends 256 blocks, which the command's one byte cannot say
    "CompareAndWrite.Miscompare",  # the same
    "Inquiry.EVPD",  # storvsc turns every failed INQUIRY into a success
    "Inquiry.BlockLimits",  # wants a version descriptor of SBC-3: Hyper-V's disks have none
}
"""What fails here, and would with Hyper-V's own disk."""
ALSO_FAIL = {
    "512": set(),
    "512e": {"GetLBAStatus.UnmapSingle"},  # asks about one block, and expects an answer about another
    "4Kn": {"GetLBAStatus.UnmapSingle"},  # writes 257 blocks at once: Linux lets nobody send more than 1 MiB
}


class ModestDisk(ScsiDisk):
    """Says that it takes 256 KiB at once: of 4 KiB blocks the suite would send more than Linux passes on."""

    def vpd_pages(self) -> dict[int, VpdHeader]:
        pages = super().vpd_pages()
        limits = cast("BlockLimits", pages[VpdPage.BLOCK_LIMITS])
        return {**pages, VpdPage.BLOCK_LIMITS: limits.replace(max_transfer=64)}


class Rig:
    """A booted Debian, the host's units by name, and the guest's names of them."""

    def __init__(
        self, shell: Shell, units: dict[str, MediaUnit], addresses: dict[str, tuple[int, UnitAddress]]
    ) -> None:
        self.shell = shell
        self.units = units
        self.scsi_names = {name: f"{at[0]}:{':'.join(map(str, at[1]))}" for name, at in addresses.items()}
        listing = "cd /sys/bus/scsi/devices; for d in *:*:*:*; do echo $d $(ls $d/block $d/scsi_generic); done"
        found = {at: (block, generic) for at, _, block, _, generic in map(str.split, shell.run(listing).output)}
        self.devices = {name: f"/dev/{found[at][0]}" for name, at in self.scsi_names.items()}
        self.devices |= {f"{name}.sg": f"/dev/{found[at][1]}" for name, at in self.scsi_names.items()}

    def run(self, command: str, timeout: float = 240) -> tuple[int, str]:
        """Exit status and output; ``{name}`` stands for a unit's block device, ``{name.sg}`` for its generic one."""
        for name, device in self.devices.items():
            command = command.replace(f"{{{name}}}", device)
        status, lines = self.shell.run(command, timeout)
        return status, "\n".join(lines)

    def check(self, command: str, *, status: int = 0, prints: str = "") -> str:
        """Run it, and insist on its exit status and on what it prints."""
        got, output = self.run(command)
        assert got == status and prints in output, f"{command}: {got}\n{output}"
        return output


@pytest.fixture(scope="module")
def rig(debian_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("rig")
    (directory / "iso").write_bytes(build_iso({"DATA.BIN": random.Random(1).randbytes(300_000)}))
    options = [
        f"overlay:{debian_base}", "memory:16M", "memory:16M,sector=512e", f"file:{directory}/thin,create=64M",
        f"{directory}/iso,dvd", "faulty:memory:16M,on=read,do=stuck,from=8M,to=9M", "memory:16M,readonly",
    ]  # fmt: skip
    first, *others = make_devices(disks=options)
    controllers = [cast("StorageController", first), StorageController("scsi1")]
    names = ["root", "512", "512e", "thin", "dvd", "stuck", "readonly"]
    addresses = {name: (0, UnitAddress(0, 0, lun)) for lun, name in enumerate(names)}
    shared = ScsiDisk(MemoryBackend(16 << 20), Identity.of("shared"))
    addresses |= {
        "4Kn": (0, UnitAddress(0, 1, 1)),
        "one": (0, UnitAddress(0, 1, 0)),
        "other": (1, UnitAddress(0, 1, 0)),
    }
    controllers[0].add(addresses["4Kn"][1], ModestDisk(MemoryBackend(64 << 20), Identity.of("4Kn"), sector=4096))
    controllers[0].add(addresses["one"][1], shared)
    kernel = kernel_or_skip(DEFAULT_VERSION)
    with RunningHost(directory / "host", [*controllers, *others]) as host:
        options_of_guest = GuestOptions(host.address, kernel, memory="1G", root="/dev/sda", append=["quiet"])
        with LinuxGuest(options_of_guest, on_console_line=print) as guest:
            shell = Shell(guest)
            shell.log_in()
            host.in_host(lambda: controllers[1].add(addresses["other"][1], shared))  # later: the root is the first disk
            shell.run("until test -e /sys/bus/scsi/devices/1:0:1:0/block; do sleep 0.1; done")
            units = {name: controllers[number].units[at] for name, (number, at) in addresses.items()}
            yield Rig(shell, units, addresses)


# libiscsi's test suite


@pytest.fixture(scope="module")
def reports(rig: Rig) -> dict[str, str]:
    """What the whole suite says about each disk; all at once, because the guest mostly waits."""
    suite = "iscsi-test-cu --dataloss --normal --ignore --test SCSI"
    rig.run("".join(f"{suite} {{{name}}} >/tmp/{name} 2>&1 & " for name in ALSO_FAIL) + "wait", timeout=600)
    found = {}
    for name in ALSO_FAIL:
        found[name] = rig.run(f"grep -E 'had failures|^ +(suites|tests)' /tmp/{name}")[1]
    return found


@pytest.mark.parametrize("disk", sorted(ALSO_FAIL))
def test_libiscsis_suite_finds_no_fault_with_a_disk(reports: dict[str, str], disk: str) -> None:
    failed = {f"{suite}.{test}" for suite, test in re.findall(r"Suite (\S+), Test (\S+) had failures", reports[disk])}
    assert failed == ALWAYS_FAIL | ALSO_FAIL[disk]
    ran = re.search(r"tests +\d+ +(\d+)", reports[disk])
    assert ran is not None and int(ran[1]) >= 200


def test_libiscsi_reaches_one_disk_over_two_controllers(rig: Rig) -> None:
    report = rig.check("iscsi-test-cu --dataloss --normal --fail --test SCSI.MultipathIO {one} {other}")
    assert "had failures" not in report and "Multipath unavailable" not in report


# sg3-utils: what the disk is


def test_inquiry_and_its_pages(rig: Rig) -> None:
    assert re.search("Msft .*Virtual Disk .*1.0", rig.check("sg_inq {512}"), re.DOTALL)
    rig.check("sg_vpd {512}", prints="Logical block provisioning (SBC) [lbpv]")
    rig.check("sg_vpd -p sn {512}", prints="Unit serial number: ")
    rig.check("sg_vpd -p di {512}", prints="0x60022480")
    rig.check("sg_vpd -p bl {4Kn}", prints="Maximum transfer length: 64 blocks")
    rig.check("sg_vpd -p bdc {512}", prints="Non-rotating medium")
    rig.check("sg_vpd -p lbpv {512}", prints="Unmap command supported (LBPU): 1")


def test_capacity_luns_and_readiness(rig: Rig) -> None:
    rig.check("sg_readcap {512}", prints="Number of logical blocks=32768")
    rig.check("sg_readcap --16 {512e}", prints="Logical blocks per physical block exponent=3")
    rig.check("sg_readcap --16 {4Kn}", prints="Logical block length=4096 bytes")
    rig.check("sg_luns {512}", prints="imples 7 lun entries")
    rig.check("sg_turs -n 20 {512} && sg_requests {512}", prints="No additional sense information")


def test_supported_commands(rig: Rig) -> None:
    rig.check("sg_opcodes {512}", prints="93                 16    0,0    Write same(16)")
    rig.check("sg_opcodes -o 0x9e,0x12 {512}", prints="Command is supported [conforming to SCSI standard]")
    rig.check("sg_opcodes -o 0x48 {512}", prints="Command is NOT supported")


def test_mode_pages_and_the_write_cache(rig: Rig) -> None:
    rig.check("sg_modes -a {512}", prints=">> Caching, page_control: current")
    page = "sg_wr_mode -p 8 -c 08,12,WCE,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0 {512}"
    rig.check(page.replace("WCE", "0"))
    rig.check("sg_modes -p 8 {512}", prints="08 12 00")
    rig.check(page.replace("WCE", "5"), status=Exit.ILLEGAL_REQUEST)
    cache_type = f"/sys/class/scsi_disk/{rig.scsi_names['512']}/cache_type"
    rig.check(f"echo 'write back' >{cache_type}; cat {cache_type}", prints="write back")
    rig.check("sg_modes -p 8 {512}", prints="08 12 04")


# sg3-utils: blocks


def test_write_verify_and_compare(rig: Rig) -> None:
    rig.check("head -c 512 /dev/urandom >/tmp/block; cat /dev/zero | head -c 512 | cat - /tmp/block >/tmp/both")
    rig.check("sg_write_same -i /tmp/block -l 64 -n 3 {512}")
    rig.check("sg_verify -i /tmp/block -n 512 -l 66 -c 1 {512}")
    rig.check("sg_verify -i /tmp/block -n 512 -l 67 -c 1 {512}", status=Exit.MISCOMPARE)
    rig.check("sg_verify -l 32768 -c 1 {512}", status=Exit.LBA_OUT_OF_RANGE)
    rig.check("sg_write_verify -i /tmp/block -l 70 -n 1 {512} && sg_write_same --16 -l 64 -n 1 {512}")
    rig.check("sg_compare_and_write -i /tmp/both -l 64 -n 1 {512}")
    rig.check("sg_compare_and_write -i /tmp/both -l 64 -n 1 {512}", status=Exit.MISCOMPARE)


def test_copies_with_forced_unit_access(rig: Rig) -> None:
    copy = "sg_dd blk_sgio=1 bs=512 bpt=64 count=4096 time=0"
    rig.check(f"head -c 2M /dev/urandom >/tmp/copy; {copy} if=/tmp/copy of={{512}} oflag=sgio,fua,dpo")
    rig.check(f"{copy} if={{512}} of=/tmp/back iflag=sgio,fua; cmp /tmp/copy /tmp/back")


def test_unmap_makes_holes_that_the_disk_tells_of(rig: Rig) -> None:
    rig.check("sg_dd blk_sgio=1 bs=512 count=4096 if=/dev/urandom of={thin} seek=0 oflag=sgio")
    rig.check("sg_get_lba_status -l 100 {thin}", prints="mapped")
    rig.check("printf '0,2048' >/tmp/ranges; timeout 240 sg_unmap --force -I /tmp/ranges {thin}")
    rig.check("sg_get_lba_status -l 100 {thin}", prints="deallocated")
    rig.check("sg_write_same --unmap -l 2048 -n 2048 {thin} && sg_get_lba_status -l 4000 {thin}", prints="deallocated")


def test_flush_start_stop_and_lock(rig: Rig) -> None:
    rig.check("sg_sync {512} && sg_start --stop {512} && sg_start --start {512} && sg_seek -l 5 {512}")
    rig.check("sg_prevent {512} && sg_prevent --allow {512}")


def test_a_disk_that_nobody_may_write_to(rig: Rig) -> None:
    rig.check("sg_modes {readonly}", prints="WP=1")
    rig.check("sg_raw -s 512 -i /dev/zero {readonly.sg} 2a 00 00 00 00 00 00 00 01 00", status=Exit.DATA_PROTECT)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("sg_logs {512}", Exit.INVALID_OPCODE),
        ("sg_sanitize -B -Q {512}", Exit.INVALID_OPCODE),
        ("sg_raw -r 512 {512} 28 00 ff ff ff ff 00 00 01 00", Exit.LBA_OUT_OF_RANGE),
        ("sg_raw -r 512 {512} 28 20 00 00 00 00 00 00 01 00", Exit.ILLEGAL_REQUEST),
        ("sg_raw -r 252 {512} 1a 00 3e 00 fc 00", 0),
    ],
)
def test_what_is_not_possible_is_refused(rig: Rig, command: str, status: int) -> None:
    rig.check(command, status=status)


# Reservations, and resets


def test_reservations_keep_the_other_path_out(rig: Rig) -> None:
    out = "sg_persist --out --prout-type=5"
    rig.check(
        "sg_persist --out --register --param-sark=a1 {one} && sg_persist --out --register --param-sark=b2 {other}"
    )
    rig.check("sg_persist --in -k {one}", prints="2 registered reservation keys follow")
    rig.check(f"{out} --reserve --param-rk=a1 {{one}}")
    rig.check("sg_persist --in -r {other}", prints="Write Exclusive, registrants only")
    rig.check(f"{out} --reserve --param-rk=b2 {{other}}", prints="DID_ERROR")  # with the status, which it does not show
    rig.check("sg_persist --out --register --param-rk=b2 --param-sark=0 {other}")
    rig.check("dd if=/dev/zero of={other} bs=4096 count=1 oflag=direct", status=1, prints="Invalid exchange")
    rig.check("sg_persist --out --register --param-sark=b2 {other}")
    rig.check(f"{out} --preempt --param-rk=b2 --param-sark=a1 {{other}}")
    rig.check("sg_persist --in -s {other}", prints="<< Reservation holder >>")
    rig.check("sg_turs {one}", status=Exit.ATTENTION)
    rig.check(f"{out} --release --param-rk=b2 {{other}} && sg_persist --out --clear --param-rk=b2 {{other}}")
    rig.check("sg_persist --in -k {one}", prints="there are NO registered reservation keys")


@pytest.mark.parametrize("what", ["--device", "--host"])  # each takes 10 s, which Linux waits for a bus to settle
def test_a_reset_gives_back_what_is_stuck_and_leaves_the_others_alone(rig: Rig, what: str) -> None:
    read = "sg_dd blk_sgio=1 bs=512 skip=16384 count=1 if={stuck} of=/dev/null iflag=sgio"
    load = "sg_dd blk_sgio=1 bs=512 bpt=8 count=4096 if=/tmp/copy of={512e} oflag=sgio"
    rig.check(f"({read} >/tmp/stuck 2>&1; echo $? >/tmp/status) &")
    assert until(lambda: rig.units["stuck"].outstanding, 120)
    rig.check("test ! -e /tmp/status")
    rig.check(f"({load} >/tmp/load 2>&1; echo $? >/tmp/loaded) & sg_reset {what} {{stuck}} && wait")
    rig.check("test $(cat /tmp/status) != 0 && cat /tmp/loaded; rm /tmp/status /tmp/loaded")
    rig.check("sg_turs {stuck}; sg_turs {stuck} && sg_verify -c 100 {stuck}")


# The DVD drive


def test_the_drive_says_what_it_can_do(rig: Rig) -> None:
    rig.check("sg_inq {dvd}", prints="Virtual DVD-ROM")
    rig.check("sg_get_config {dvd}", prints="Current profile: DVD-ROM")
    rig.check("sg_modes -a {dvd}", prints="MM capabilities and mechanical status")
    rig.check("sg_readcap {dvd}", prints="Logical block length=2048 bytes")
    rig.check("sg_raw -r 12 {dvd} 43 00 00 00 00 00 00 00 0c 00", prints="00 12 01 01 00 14 01 00")
    rig.check("sg_raw -s 512 -i /dev/zero {dvd} 2a 00 00 00 00 00 00 00 01 00", status=Exit.INVALID_OPCODE)


def test_a_disc_is_locked_read_and_ejected(rig: Rig) -> None:
    rig.check("mount -o ro {dvd} /mnt && test $(stat -c %s /mnt/data.bin) = 300000 && umount /mnt")
    rig.check("sg_prevent {dvd.sg}")
    rig.check("sg_start --eject {dvd.sg}", status=Exit.ILLEGAL_REQUEST)
    rig.check("sg_prevent --allow {dvd.sg} && sg_start --eject {dvd.sg}")
    rig.check("sg_turs {dvd}; sg_turs {dvd}", status=Exit.NOT_READY)
    drive = cast("ScsiDvd", rig.units["dvd"])
    assert drive.is_open and drive.backend is None
