"""Our Python guest ends in user space of the real Linux guest: Debian with its root on our disk, Python, and uio."""

from __future__ import annotations

import base64
import compileall
import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.testing.debian import ALONE, Shell
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

pytestmark = pytest.mark.linux

StartHost = Callable[..., RunningHost]
StartDebian = Callable[..., tuple[RunningHost, Shell]]
PROGRAM = Path(__file__).with_name("uio_in_guest.py")
IMPORTED = (
    "typer", "shellingham", "annotated_doc", "annotated_types", "typing_extensions", "typing_inspection", "pydantic",
    "pydantic_core",
)  # fmt: skip
"""What the command line imports beside the package itself."""
LATENCY = 1000
"""100 microseconds, in units of 100 ns."""


@pytest.fixture(scope="session")
def package_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with this package as it is here, what its commands import, the program that uses it without them,
    and this machine's libatomic, which the pure Python version needs.
    """
    directory = tmp_path_factory.mktemp("package")
    skipped = shutil.ignore_patterns("__pycache__", "testing", "linux")
    for name in ("vmbus", *IMPORTED):
        found = find_spec(name)
        assert found is not None and found.origin is not None
        origin = Path(found.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, directory / name, ignore=skipped)
        else:
            shutil.copy(origin, directory)
    about = directory / "vmbus-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vmbus\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[vmbus.commands]\nuio = vmbus.cli.uio:app\n")
    shutil.copy(PROGRAM, directory)
    compileall.compile_dir(directory, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)  # once, and here
    ctypes.CDLL("libatomic.so.1")
    loaded = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libatomic.so" in line)
    shutil.copy(next(loaded), directory / "libatomic.so.1")
    image = directory.with_suffix(".ext4")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(directory), str(image), "64M"], check=True)
    return image


@pytest.fixture
def needs_monitor_id(linux_kernel: Path) -> bool:
    """Whether the kernel lets user space drive only channels that are signalled through the monitor page."""
    return "-6.1-" in linux_kernel.name


@pytest.fixture
def debian(
    debian_base: Path,
    package_image: Path,
    running_host: StartHost,
    linux_guest: StartGuest,
    needs_monitor_id: bool,
) -> StartDebian:
    """``debian(nics=[...], others=[...])``: Debian with its root on our disk, our package in it, and those devices.

    Their channels have monitor ids where the kernel wants that. ``watching=False``: neither end watches its rings and
    flags for a moment before it waits for a signal. ``whole=True``: with its services, and not a shell alone.
    """

    def start(*, watching: bool = True, whole: bool = False, **devices: Any) -> tuple[RunningHost, Shell]:
        devices.setdefault("monitor_latency", LATENCY if needs_monitor_id else None)
        disks = [f"overlay:{debian_base}", f"overlay:{package_image}"]
        options = {} if watching else {"spin_microseconds": 0}
        host = running_host(make_devices(disks=disks, **devices), **options)
        append = ["quiet"] if whole else list(ALONE)
        if not watching:
            append.append("vmbus_poll=0")
        shell = Shell(linux_guest(host.address, root="/dev/sda", append=append, memory="512M"))
        if whole:
            shell.log_in()
        else:
            shell.take()
        run(shell, "mount /dev/sdb /mnt; cd /mnt; export LD_LIBRARY_PATH=/mnt")
        return host, shell

    return start


def run(shell: Shell, command: str, timeout: float = 300) -> dict[str, list[str]]:
    """What a command printed, each line's words by the first of them; it must succeed."""
    finished = shell.run(command, timeout)
    assert finished.status == 0, "\n".join(finished.output)
    return {words[0]: words[1:] for line in finished.output if (words := line.split())}


def test_packets_of_all_sizes_cross_both_ways(debian: StartDebian) -> None:
    _, shell = debian(others=["echo"])
    for mode, variable in (("native", ""), ("pure", "VMBUS_PURE_PYTHON=1 ")):
        told = run(shell, f"{variable}python3 uio_in_guest.py echo 20000 8000 64")
        assert told["exchanged"][0] == "20000" and int(told["wrapped"][0]) > 100
        assert told["rings"][1] == mode and told["left"] == ["0"]


def test_each_packet_wakes_the_other_end_where_nobody_watches(debian: StartDebian) -> None:
    _, shell = debian(others=["echo"], watching=False)
    told = run(shell, "python3 uio_in_guest.py echo 1000 100 1")
    assert int(told["exchanged"][3]) > 900 and int(told["exchanged"][4]) > 900


def test_the_host_is_signalled_through_the_monitor_page(debian: StartDebian) -> None:
    host, shell = debian(others=["echo"], monitor_latency=LATENCY, watching=False)
    assert host.host.partition is not None
    before = host.host.partition.monitor.signals_to_host
    run(shell, "python3 uio_in_guest.py echo 2000 1000 1")
    assert host.host.partition.monitor.signals_to_host > before + 1800


def test_a_device_that_is_taken_back_in_the_middle_ends_with_one_clear_line(debian: StartDebian) -> None:
    host, shell = debian(others=["echo"])
    shell.guest.write_line("python3 uio_in_guest.py echo 100000000 1000 64; echo ended $?")
    shell.guest.wait_for_line("rings", 120)
    slot = next(slot for slot in host.host.slots if slot.device.name == "echo")
    host.in_host(slot.rescind)
    shell.guest.wait_for_line("ended 1", 120)
    assert any(line.startswith("DeviceGone: ") for line in shell.guest.lines)
    assert not any("Traceback" in line or "BUG:" in line for line in shell.guest.lines)
    host.in_host(slot.reoffer)
    assert until(lambda: slot.channel_ids, 120)
    channels = f"/sys/bus/vmbus/devices/{slot.device.instance_id}/channels"
    run(shell, f"until ls -d {channels}/[0-9]*; do sleep .1; done")
    assert run(shell, "python3 uio_in_guest.py echo 1000 1000 64")["exchanged"][0] == "1000"


def test_the_network_card_works_over_the_buffers_that_the_kernel_shared(debian: StartDebian) -> None:
    _, shell = debian(nics=["embedded,queues=4"])
    for queues in ("1", "3", "1"):  # subchannels appear in sysfs, and are gone when the device is closed
        told = run(shell, f"python3 uio_in_guest.py card 10.7.0.1 2000000 {queues}")
        assert told["card"][1:] == ["V61", queues]
        assert told["stream"] == ["2000000", "same"] and told["left"] == ["0"]


def plug_disk(host: RunningHost, shell: Shell) -> str:
    """Offer another controller with a disk of 64 MiB, and wait until Linux has it; its instance id."""
    (controller,) = make_devices(disks=["memory:64M,controller=1"], monitor_latency=LATENCY)
    host.in_host(lambda: host.host.plug(controller))
    run(shell, "until [ -e /dev/sdc ]; do sleep .1; done")
    return str(controller.instance_id)


def test_a_disk_works_in_pages_of_the_kernels_buffer(debian: StartDebian) -> None:
    host, shell = debian()
    plug_disk(host, shell)
    told = run(shell, "python3 uio_in_guest.py disk 200")
    assert told["disk"][0] == str((64 << 20) // 512) and told["compared"] == ["200"] and told["left"] == ["0"]
    mounted = shell.run("python3 -c 'from vmbus.transport.uio import *; [bind(d) for d in list_devices()]'")
    assert mounted.status == 1 and mounted.output[-1].endswith("has a disk that is in use: /, /mnt")


def test_the_command_lists_binds_drives_records_and_gives_back(debian: StartDebian, tmp_path: Path) -> None:
    host, shell = debian(whole=True, nics=["embedded"], others=["echo"])
    if run(shell, "python3 -V")["Python"][0].split(".")[:2] != [str(number) for number in sys.version_info[:2]]:
        pytest.skip("the guest's Python cannot load the extension modules of this one's command line")
    disk = plug_disk(host, shell)
    vmbus = "python3 -m vmbus uio"
    before = shell.run(f"{vmbus} list").output
    unopened = "within 0 us"  # what the host says of the latency of a channel that was never opened
    assert any(" net " in line and "hv_netvsc" in line for line in before)
    assert run(shell, f"{vmbus} bind net")["net"][2].startswith("/dev/uio")
    told = run(shell, f"{vmbus} card net --ping 10.7.0.1 --tcp-echo 100000 -w /tmp/card.pcapng")
    assert told["100000"][-1] == "compared"
    assert run(shell, f"{vmbus} release net")["net"][-1] == "hv_netvsc"
    assert run(shell, f"{vmbus} echo --bind --packets 200 --largest 100")["200"][0] == "packets,"
    of_disk = run(shell, f"{vmbus} disk {disk} --bind")
    assert of_disk["Msft"][2:5] == ["131072", "blocks", "of"] and of_disk["1048576"][:2] == ["bytes", "read"]
    after = shell.run(f"{vmbus} list").output
    assert after == [line.replace(unopened, f"within {LATENCY // 10} us") for line in before]
    capture = tmp_path / "card.pcapng"
    capture.write_bytes(base64.b64decode("".join(shell.run("base64 /tmp/card.pcapng").output)))
    read = subprocess.run([sys.executable, "-m", "vmbus", "read", capture], capture_output=True, text=True, check=True)
    for expected in ("OFFER_CHANNEL", "RNDIS QUERY_COMPLETE", "ARP", "IPv4", "REVOKE_SEND_BUFFER"):
        assert expected in read.stdout
    checked = subprocess.run([sys.executable, "-m", "vmbus", "check", capture], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_channel_that_the_kernel_does_not_let_go_stays_where_it_was(
    debian: StartDebian, needs_monitor_id: bool
) -> None:
    if not needs_monitor_id:
        pytest.skip("this kernel lets user space drive every channel")
    _, shell = debian(nics=["embedded"], monitor_latency=None)
    finished = shell.run("python3 uio_in_guest.py card 10.7.0.1 1 1")
    assert finished.status == 1 and "only channels with a monitor page id" in finished.output[-1]
    assert run(shell, "cd /sys/class/net; ls -d eth*") == {"eth0": []}
