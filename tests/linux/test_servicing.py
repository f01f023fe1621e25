"""A host is stopped, or killed, and started again under a Linux guest at work; the guest goes on with nothing lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.linux.launch import ExitStatus, GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION
from vmbus.testing.linux import StartGuest, kernel_or_skip
from vmbus.testing.restarts import LOAD, RELEASE, RestartableHost, errors_in_the_log, is_clean, release

KILLED_HOST = Path(__file__).parents[1] / "host" / "killed_host.py"
NEWER_HOST = KILLED_HOST.with_name("newer_host.py")
sys.path.insert(0, str(KILLED_HOST.parent))

from killed_host import POINTS, POINTS_OF_A_TAKE_OVER  # noqa: E402

pytestmark = pytest.mark.linux

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")


@pytest.fixture
def stopped_host(tmp_path: Path) -> Iterator[RestartableHost]:
    host = RestartableHost(tmp_path)
    yield host
    host.end(signal.SIGKILL)


@pytest.fixture
def host(stopped_host: RestartableHost) -> RestartableHost:
    stopped_host.start()
    return stopped_host


def run_under_load(linux_guest: StartGuest, host: RestartableHost, disturb: Callable[[], None]) -> None:
    """A mounted ext4 under a load, while ``disturb`` runs; what was flushed before is there after it."""
    script = [
        "wait-path /dev/sda 120",
        "mount /dev/sda /mnt ext4",
        "write-file /mnt/before 4M 1",
        "write-file /mnt/load 16M 3",
        "sync",
        "say ready",
        LOAD,
        RELEASE,
        "wait",
        "@before read-file /mnt/before 4M 1",
        "write-file /mnt/after 8M 2",
        "umount /mnt",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    guest.wait_for_line("ready", 120)
    disturb()
    release(guest, host)


def show_progress(done: int, total: int, what: str) -> None:
    """A line now and then, for whoever waits for a soak."""
    if done % max(total // 10, 1) == 0:
        print(f"{time.strftime('%H:%M:%S')} {done} of {total} {what}", file=sys.__stderr__, flush=True)


def test_a_host_that_is_stopped_and_started_again_is_not_missed(linux_guest: StartGuest, host: RestartableHost) -> None:
    def restart_twice() -> None:
        for _ in range(2):
            time.sleep(0.7)
            host.end(signal.SIGTERM)
            time.sleep(0.2)
            host.start()

    run_under_load(linux_guest, host, restart_twice)


@pytest.mark.soak
def test_a_host_that_is_killed_at_random_moments_loses_no_request(
    linux_guest: StartGuest, host: RestartableHost
) -> None:
    kills = 100 if SOAK else 4
    chance = random.Random(20260101)

    def kill_and_start() -> None:
        for done in range(kills):
            time.sleep(chance.uniform(0.05, 0.8))
            host.end(signal.SIGKILL)
            host.start()
            show_progress(done + 1, kills, "kills under a disk load")

    run_under_load(linux_guest, host, kill_and_start)


def test_a_newer_version_of_the_host_goes_on_and_an_older_one_refuses_in_one_line(
    linux_guest: StartGuest, host: RestartableHost
) -> None:
    newer = [str(NEWER_HOST)]

    def start_newer_ones() -> None:
        for number, program in ((signal.SIGKILL, newer), (signal.SIGTERM, newer), (signal.SIGKILL, newer)):
            time.sleep(0.7)
            host.end(number)
            host.start(program)
        time.sleep(0.7)
        host.end(signal.SIGTERM)
        refused = subprocess.run(host.command(), capture_output=True, text=True, timeout=120)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert "is of version 4, and this program reads up to 3: a newer one wrote it" in refused.stderr
        host.start(newer)

    run_under_load(linux_guest, host, start_newer_ones)
    assert re.findall(r"generations (\d) (\d)", host.log.read_text()) == [("1", "1")] + [("2", "2")] * 3


def test_a_guest_whose_state_is_gone_is_refused_in_one_line(
    linux_guest: StartGuest, host: RestartableHost, tmp_path: Path
) -> None:
    guest = linux_guest(host.address, ["wait-path /dev/sda 120", "say ready", "sleep 600"], reconnect=240)
    guest.wait_for_line("ready", 120)
    host.end(signal.SIGKILL)
    for file in tmp_path.glob("state*"):
        file.unlink()
    host.start()
    assert guest.wait(240) == ExitStatus.HOST_REFUSED


def killed_at(point: str, count: int) -> list[str]:
    """The program of a host that is killed at a point, the ``count``-th time."""
    return [str(KILLED_HOST), point, str(count)]


MESSAGES = [point for point in POINTS if "message" in point]
PACKETS = [point for point in POINTS if "message" not in point and "document" not in point]
BOOT = [(point, count) for count in (1, 2) for point in MESSAGES]
BOOT += [(point, 1) for point in (*POINTS, *POINTS_OF_A_TAKE_OVER)]
WORK = [(point, 30) for point in PACKETS] + [(point, 1) for point in POINTS_OF_A_TAKE_OVER]


def test_a_host_that_is_killed_at_each_point_of_a_request_completes_it_once(stopped_host: RestartableHost) -> None:
    host, kernel = stopped_host, kernel_or_skip(DEFAULT_VERSION)
    host.start(killed_at(*BOOT[0]))
    script = [
        "wait-path /dev/sda 120",
        "mount /dev/sda /mnt ext4",
        "write-file /mnt/load 16M 3",
        LOAD,
        "ifup eth0 10.7.0.2/24",
        "say ready",
        RELEASE,
        "wait",
        "ping 10.7.0.1 3 1400",
        "umount /mnt",
    ]
    options = GuestOptions(host.address, kernel, script=script, reconnect=240)
    with LinuxGuest(options, on_console_line=print) as guest:
        for point, count in [*BOOT[1:], *WORK]:
            assert host.wait(240) == -signal.SIGKILL
            host.start(killed_at(point, count))
        assert host.wait(240) == -signal.SIGKILL
        host.start()
        guest.wait_for_line("ready", 120)
        release(guest, host)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of the test's own, with a TAP interface ``vm0`` that stays when nobody has it open."""
    name = f"vmbus-test-{os.getpid()}"
    problem = "" if os.geteuid() == 0 else "only root may make a network namespace"
    problem = problem or ("" if shutil.which("ip") else "the command ip is missing (package iproute2)")
    if not problem:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        problem = "" if made.returncode == 0 else f"no network namespace can be made: {made.stderr.strip()}"
    if problem:
        (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)(problem)
    try:
        for line in (
            "link set lo up",
            "tuntap add dev vm0 mode tap vnet_hdr",
            "addr add 10.9.0.1/24 dev vm0",
            "link set vm0 up",
        ):
            subprocess.run(["ip", "-n", name, *line.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


RATE = 16 << 20
"""Bytes a second that the peer echoes at most: the stream must last longer than the restarts."""
ECHO_SERVER = f"""
import socket, time
server = socket.create_server(("10.9.0.1", 7))
print("serving", flush=True)
connection, _ = server.accept()
while data := connection.recv(65536):
    connection.sendall(data)
    time.sleep(len(data) / {RATE})
connection.shutdown(socket.SHUT_WR)
"""


@pytest.fixture
def echo_server(namespace: str) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", ECHO_SERVER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "serving\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.tap
@pytest.mark.soak
def test_a_tcp_stream_and_a_disk_load_together_outlive_stopped_and_killed_hosts(
    linux_guest: StartGuest, namespace: str, echo_server: subprocess.Popen[str], tmp_path: Path
) -> None:
    kills = 100 if SOAK else 4
    longest = 0.6
    size = int(2 * (kills + 2) * longest * RATE)
    devices = ["--scsi", str(tmp_path / "disk.img"), "--nic", "tap:vm0"]
    host = RestartableHost(tmp_path, *devices, prefix=["ip", "netns", "exec", namespace])
    host.start()
    script = [
        "wait-path /dev/sda 120",
        "mount /dev/sda /mnt ext4",
        "write-file /mnt/load 16M 3",
        "wait-path /sys/class/net/eth0 120",
        "ifup eth0 10.9.0.2/24",
        LOAD,
        "say ready",
        f"stream-echo tcp:10.9.0.1:7 {size} 5",
        "sh touch /stop",
        "wait",
        "umount /mnt",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    guest.wait_for_line("ready", 120)
    chance = random.Random(7)
    ends = [signal.SIGTERM] * 2 + [signal.SIGKILL] * kills
    chance.shuffle(ends)
    for done, number in enumerate(ends, 1):
        time.sleep(chance.uniform(0.1, longest))
        assert echo_server.poll() is None, f"the stream was over after {done - 1} restarts"
        host.end(number)
        host.start()
        show_progress(done, len(ends), "restarts under a TCP stream and a disk load")
    try:
        assert guest.wait(600 if SOAK else 240) == ExitStatus.DONE
    finally:
        host.end(signal.SIGKILL)
    assert echo_server.wait(120) == 0
    assert errors_in_the_log(guest) == []
    assert is_clean(host.image)
