"""Makes the captures in this folder again: ``python captures/regenerate.py [CASE ...]``; without names, all of them.
With ``--references`` only what they decode to is written again.

Real ones are recorded from a Linux guest (built if need be) or the Python guest that uses our host; the faults are
conversations written by hand (``dissectors/rules/faults.py``).  Each folder gets ``capture.pcapng``, ``reference.txt``
(what ``vmbus read`` prints; of the faults every field) and ``README.md``.  The tests decode every capture and compare
it with its reference and with tshark.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dissectors.golden import reference_lines
from dissectors.rules import RULES
from dissectors.rules.faults import FAULTS
from dissectors.testing import Script
from vmbus.capture import blocks
from vmbus.capture.walk import Block, BlockWalker
from vmbus.testing.iso import build_iso
from vmbus.wire.capture import NoteKind, NoteRecord, RecordKind

HERE = Path(__file__).parent
MANY_RECORDS = frozenset({"EX-27", "EX-33"})
"""Faults that are a matter of numbers, so that their references have one line for each record."""
FILES = ("disk.img", "disc.iso", "vsock")
"""What devices use of the folder in which a capture is recorded."""
VMBUS = [sys.executable, "-m", "vmbus"]


@dataclass(frozen=True)
class Recording:
    """A capture of a real guest."""

    about: str
    kernel: str
    """``python`` for the Python guest."""
    commands: Sequence[str] = ()
    append: str = ""
    devices: Sequence[str] = ("--scsi", "disk.img", "--nic", "embedded")
    snap: int = 96
    """Bytes of disk and network data that are kept with each packet."""
    during: Callable[[Path], None] | None = None
    """What happens to the host while the guest runs, given its folder."""


def _tell_host(folder: Path, *commands: Sequence[str]) -> None:
    """Give the host commands through its control socket, a second apart, once the guest is up."""
    time.sleep(2)
    for command in commands:
        subprocess.run([*VMBUS, "ctl", f"unix:{folder}/host.sock", *command], check=True)
        time.sleep(1)


def _unplug(folder: Path) -> None:
    """Rescind the network card and offer it again."""
    _tell_host(folder, ("rescind", "net"), ("offer", "net"))


def _change_disks(folder: Path) -> None:
    """Add a disk and take it away, let another grow, and change the disc of the DVD drive."""
    _tell_host(
        folder,
        ("add-scsi", "memory:4M"),
        ("resize", "scsi/0:0:0", "16M"),
        ("remove", "scsi/0:0:2"),
        ("eject", "scsi/0:0:1"),
        ("insert", "scsi/0:0:1", f"{folder}/other.iso"),
    )


def _echo_once(folder: Path) -> None:
    """Listen for the guest's connection to port 5000, and send back what it sends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/vsock_5000")
        listener.listen()
        listener.settimeout(30)
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)


DISK = ("mount /dev/sda /mnt ext4", "write-file /mnt/a 70000 1", "sync", "read-file /mnt/a 70000 1", "umount /mnt")
NETWORK = ("ifup eth0 10.7.0.2/24", "ping 10.7.0.1 2 56", "ping 10.7.0.1 1 1400")

RECORDINGS = {
    "boot-6.12": Recording("Linux 6.12 boots with a disk and a network card, and powers off.", "6.12", ("report",)),
    "boot-6.1": Recording("Linux 6.1 boots with a disk and a network card, and powers off.", "6.1", ("report",)),
    "boot-6.12-vmbus-4.0": Recording(
        "The same, held to VMBus 4.0.", "6.12", ("report",), "hv_vmbus.max_version=0x40000"
    ),
    "boot-6.1-vmbus-5.0": Recording(
        "Linux 6.1, held to VMBus 5.0.", "6.1", ("report",), "hv_vmbus.max_version=0x50000"
    ),
    "disk-6.12": Recording(
        "A file is written to an ext4 file system and read back.", "6.12", DISK, devices=("--scsi", "disk.img")
    ),
    "network-6.12": Recording(
        "The card comes up; ARP, and pings of 56 and 1,400 bytes.",
        "6.12",
        NETWORK,
        devices=("--nic", "embedded"),
        snap=256,
    ),
    "network-6.1": Recording("The same on Linux 6.1.", "6.1", NETWORK, devices=("--nic", "embedded"), snap=256),
    "hot-6.12": Recording(
        "The network card is rescinded and offered again while the guest runs.",
        "6.12",
        ("ifup eth0 10.7.0.2/24", "ping 10.7.0.1 1 56", "sleep 5", "report"),
        devices=("--nic", "embedded"),
        during=_unplug,
    ),
    "hot-disk-6.12": Recording(
        "A disk comes, another grows, the first one goes and a DVD is changed while the guest runs.",
        "6.12",
        (
            *("wait-path /dev/sr0 10", "mount /dev/sr0 /mnt iso9660 ro", "sha256 /mnt/data.bin", "umount /mnt"),
            *("wait-path /dev/sdb 10", "disk-fill /dev/sdb 0 8K 1"),
            "sh until grep -q 32768 /sys/block/sda/size; do sleep 0.1; done",
            *("wait-gone /dev/sdb 10", "sleep 8"),
            *("mount /dev/sr0 /mnt iso9660 ro", "sha256 /mnt/data.bin", "umount /mnt"),
        ),
        devices=("--scsi", "disk.img", "--scsi", "disc.iso,dvd"),
        during=_change_disks,
    ),
    "hvsocket-6.12": Recording(
        "A program in the guest connects to one on the host over AF_VSOCK, which echoes 3,000 bytes.",
        "6.12",
        ("stream-echo vsock:2:5000 3000 1",),
        devices=("--vsock", "vsock"),
        during=_echo_once,
    ),
    "python-guest": Recording("Our Python guest uses a disk and a card at VMBus 6.0.", "python"),
}


def record(name: str, recording: Recording) -> Path:
    """Record a real guest into its folder."""
    target = HERE / name / "capture.pcapng"
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        disk = folder / "disk.img"
        disk.write_bytes(b"")
        os.truncate(disk, 8 << 20)
        subprocess.run(["mkfs.ext4", "-qF", str(disk)], check=True)
        for disc in ("disc.iso", "other.iso"):
            (folder / disc).write_bytes(build_iso({"DATA.BIN": disc.encode() * 64}))
        devices = [f"{folder}/{option}" if option.startswith(FILES) else option for option in recording.devices]
        listen = f"unix:{folder}/host.sock"
        command = [*VMBUS, "host", listen, *devices, "-w", str(target), "--snap", str(recording.snap)]
        host = subprocess.Popen(command)
        try:
            while not (folder / "host.sock").exists():
                time.sleep(0.05)
            guest = subprocess.Popen(_guest_command(listen, recording))
            if recording.during is not None:
                recording.during(folder)
            if guest.wait(120):
                raise SystemExit(f"{name}: the guest ended with {guest.returncode}")
        finally:
            host.send_signal(signal.SIGINT)
            host.wait(30)
    return target


def _guest_command(listen: str, recording: Recording) -> list[str]:
    command = [*VMBUS, "guest", "run", listen]
    if recording.kernel == "python":
        return [*command, "--python", "--timeout", "0.3", "--pause", "0.1"]
    command += ["--kernel", recording.kernel, "--memory", "96M", "--timeout", "60"]
    if recording.append:
        command += ["--append", recording.append]
    for line in recording.commands:
        command += ["--command", line]
    return command


def without_logs(capture: Path) -> None:
    """Leave out what consoles and kernel logs said, and which machine recorded: it differs from run to run."""
    kept = [blocks.block(blocks.SECTION_HEADER, struct.pack("<IHHq", blocks.BYTE_ORDER_MAGIC, 1, 0, -1))]
    with capture.open("rb") as file:
        for block in BlockWalker(file):
            assert isinstance(block, Block)
            is_log = block.block_type == blocks.ENHANCED_PACKET and _is_log(block.body[20:])
            if block.block_type != blocks.SECTION_HEADER and not is_log:
                kept.append(blocks.block(block.block_type, block.body))
    capture.write_bytes(b"".join(kept))


def _is_log(data: bytes) -> bool:
    return data[1] == RecordKind.NOTE and NoteRecord.parse(data).note_kind in (NoteKind.CONSOLE, NoteKind.KERNEL_LOG)


def write_fault(rule: str) -> Path:
    """Write the conversation in which a rule's fault happens."""
    build = FAULTS[rule]
    folder = HERE / f"fault-{rule.lower()}-{build.__name__.replace('_', '-')}"
    folder.mkdir(exist_ok=True)
    script = Script()
    script.connect()
    build(script)
    return script.write(folder / "capture.pcapng")


def finish(capture: Path, about: str, *, fields: bool) -> None:
    """Write the reference and the README beside a capture."""
    (capture.parent / "README.md").write_text(f"{about}\n")
    (capture.parent / "reference.txt").write_text("\n".join(reference_lines(capture, fields=fields)) + "\n")
    print(f"{capture.parent.name}: {capture.stat().st_size:,} bytes")


def write_index() -> None:
    """Keep the table in README.md in step with the folders."""
    path = HERE / "README.md"
    head = path.read_text().partition("| capture |")[0]
    rows = [
        f"| [{capture.parent.name}]({capture.parent.name}/) | {(capture.parent / 'README.md').read_text().strip()} |\n"
        for capture in sorted(HERE.glob("*/capture.pcapng"))
    ]
    path.write_text(head + "| capture | |\n|---|---|\n" + "".join(rows))


def refresh() -> None:
    """Write every reference again, from the captures as they are."""
    for capture in sorted(HERE.glob("*/capture.pcapng")):
        about = (capture.parent / "README.md").read_text().strip()
        is_long = any(capture.parent.name.startswith(f"fault-{rule.lower()}") for rule in MANY_RECORDS)
        finish(capture, about, fields=capture.parent.name.startswith("fault-") and not is_long)


def _is_fault(name: str, rule: str) -> bool:
    return name.startswith(f"fault-{rule.lower()}")


def main(names: list[str]) -> None:
    """Make the named captures, or all."""
    if names == ["--references"]:
        refresh()
        return
    for name in names:
        if name not in RECORDINGS and name != "faults" and not any(_is_fault(name, rule) for rule in FAULTS):
            raise SystemExit(f"there is no capture {name!r}: there is faults, {', '.join(RECORDINGS)}, fault-ex-NN")
    for name, recording in RECORDINGS.items():
        if not names or name in names:
            capture = record(name, recording)
            without_logs(capture)
            finish(capture, recording.about, fields=False)
    for rule in sorted(FAULTS):
        if not names or any(_is_fault(name, rule) for name in names) or "faults" in names:
            finish(write_fault(rule), f"The fault of {rule}: {RULES[rule].title}", fields=rule not in MANY_RECORDS)


if __name__ == "__main__":
    main(sys.argv[1:])
    write_index()
