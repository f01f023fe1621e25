"""The shim in a real kernel, against the fake host: what docs/partition-protocol.md says a guest does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from vmbus.linux.launch import ExitStatus
from vmbus.loop import is_readable
from vmbus.testing.fake_host import (
    CRASH_CTL,
    EOM,
    GET_REGISTER,
    INITIATE_CONTACT,
    POST_MESSAGE,
    REQUEST_OFFERS,
    SCONTROL,
    SIEFP,
    SIMP,
    SINT2,
    UNLOAD,
    FakeHost,
    Frame,
)
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until
from vmbus.wire.partition import PartitionFeatures

pytestmark = pytest.mark.linux

BUSY = "sh while :; do echo busy > /dev/kmsg; done"
RECONNECT = 1


def test_a_guest_negotiates_and_powers_off_with_its_scripts_status(host: FakeHost, linux_guest: StartGuest) -> None:
    guest = linux_guest(host.path, ["report"])
    assert guest.wait(240) == ExitStatus.DONE
    assert host.gone.wait(60)
    assert host.messages() == [INITIATE_CONTACT, REQUEST_OFFERS]
    assert any("Vmbus version:5.3" in line for line in host.log)
    assert "TEST report ok devices=0" in guest.lines


def test_a_failed_command_becomes_the_exit_status(host: FakeHost, linux_guest: StartGuest) -> None:
    guest = linux_guest(host.path, ["sha256 /no-such-file", "report"])
    assert guest.wait(240) == ExitStatus.FAILED
    assert "TEST report ok devices=0" in guest.lines
    assert linux_guest(host.path, ["exit 42"]).wait(240) == 42


def test_the_hello_says_where_guest_memory_begins_and_the_synic_pages_lie_above(
    host: FakeHost, linux_guest: StartGuest
) -> None:
    linux_guest(host.path, ["report"], memory="96M").wait(240)
    assert host.gone.wait(60)
    (hello,) = host.hellos
    assert hello.memory_size == 96 << 20
    assert 0 < hello.first_gpa < 32 << 20 and hello.first_gpa % 4096 == 0
    assert hello.vp_count == 1 and hello.last_sequence == 0
    assert hello.features == PartitionFeatures.POLLING_WORD
    for register in SIMP, SIEFP:
        assert host.registers[register] & 1
        assert hello.first_gpa <= host.registers[register] & ~0xFFF < hello.memory_size
    assert host.registers[SCONTROL] & 1 and not host.registers[SINT2] & 1 << 16
    assert EOM not in host.registers, "no message was ever pending behind another"


def test_requests_are_numbered_and_posts_are_not(host: FakeHost, linux_guest: StartGuest) -> None:
    linux_guest(host.path, ["report"]).wait(240)
    assert host.gone.wait(60)
    numbered = [frame.sequence for frame in host.frames if frame.op in (GET_REGISTER, POST_MESSAGE)]
    assert numbered == list(range(1, len(numbered) + 1))
    assert {frame.sequence for frame in host.frames if frame.op not in (GET_REGISTER, POST_MESSAGE)} == {0}


def test_a_panic_is_reported_with_the_log_and_vmbus_is_unloaded(host: FakeHost, linux_guest: StartGuest) -> None:
    assert linux_guest(host.path, ["panic"]).wait(240) == ExitStatus.PANICKED
    assert host.gone.wait(60)
    assert host.messages()[-1] == UNLOAD and host.unloaded.is_set()
    assert host.registers[CRASH_CTL] == 3 << 62
    address, size = host.registers[CRASH_CTL - 2], host.registers[CRASH_CTL - 1]
    assert host.memory is not None
    assert b"Attempted to kill init" in host.memory[address : address + size]
    assert any("Attempted to kill init" in line for line in host.log)


def test_a_tick_that_comes_while_the_guest_halts_does_not_end_it_otherwise(
    host: FakeHost, linux_guest: StartGuest
) -> None:
    for _ in range(6):
        guest = linux_guest(host.path, ["report"])
        guest.wait_for_line("VMBUS-EXIT", 120)
        ending = os.pidfd_open(guest.pid)  # readable when the kernel's process has ended
        while not is_readable(ending):
            for _ in range(20):
                signal.pidfd_send_signal(ending, signal.SIGALRM)
        os.close(ending)
        assert guest.wait(60) == ExitStatus.DONE
        assert host.gone.wait(60)
        host.gone.clear()


@pytest.mark.parametrize("activity", ["sleep 600", BUSY], ids=["idle", "busy"])
def test_a_guest_whose_host_dies_stops_with_a_clear_message(
    host: FakeHost, linux_guest: StartGuest, activity: str
) -> None:
    guest = linux_guest(host.path, ["say ready", activity])
    guest.wait_for_line("ready", 120)
    host.drop()
    assert guest.wait(240) == ExitStatus.HOST_GONE
    assert "vmbus: host closed the connection" in guest.lines


@pytest.mark.parametrize(("append", "kind"), [([], "pipe:"), (["vmbus_interrupt=eventfd"], "anon_inode:[eventfd]")])
def test_the_interrupt_is_a_pipe_or_an_eventfd(
    host: FakeHost, linux_guest: StartGuest, append: list[str], kind: str
) -> None:
    guest = linux_guest(host.path, ["report", "say ready", "sleep 600"], append=append)
    guest.wait_for_line("ready", 120)
    assert host.interrupt_kind.startswith(kind)
    host.drop()
    assert guest.wait(240) == ExitStatus.HOST_GONE


def test_without_a_host_the_guest_says_so(linux_guest: StartGuest, tmp_path: os.PathLike[str]) -> None:
    guest = linux_guest(f"{tmp_path}/nobody", ["report"])
    assert guest.wait(240) == ExitStatus.HOST_GONE
    assert any("no host listens at" in line for line in guest.lines)


@pytest.mark.parametrize(("status", "reason"), [(1, "protocol version"), (3, "another guest"), (5, "saved state")])
def test_a_refused_guest_says_why(
    start_host: Callable[..., FakeHost], linux_guest: StartGuest, status: int, reason: str
) -> None:
    host = start_host(hello_status=status)
    guest = linux_guest(host.path, ["report"])
    assert guest.wait(240) == ExitStatus.HOST_REFUSED
    assert any("host refused this guest" in line and reason in line for line in guest.lines)


def test_a_reconnecting_guest_survives_its_host_and_sends_everything_again(
    host: FakeHost, linux_guest: StartGuest
) -> None:
    guest = linux_guest(host.path, ["say ready", "@over sh read line", "report"], reconnect=240)
    guest.wait_for_line("ready", 120)
    before = dict(host.registers)
    for _ in range(3):
        host.gone.clear()
        host.registers.clear()
        host.drop()
        assert host.gone.wait(60)
        assert until(lambda: {SIMP, SIEFP, SINT2, SCONTROL} <= set(host.registers), 60)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE
    first, *later = host.hellos
    assert len(later) == 3 and first.features == RECONNECT | PartitionFeatures.POLLING_WORD
    assert all(hello.guest_id == first.guest_id and hello.last_sequence > 0 for hello in later)
    assert {register: host.registers[register] for register in (SIMP, SIEFP, SINT2, SCONTROL)} == {
        register: before[register] for register in (SIMP, SIEFP, SINT2, SCONTROL)
    }


def test_a_request_that_was_cut_off_is_sent_again_with_its_number(
    start_host: Callable[..., FakeHost], linux_guest: StartGuest
) -> None:
    cut: list[Frame] = []

    def cut_first_contact(host: FakeHost, frame: Frame) -> bool:
        if frame.op == POST_MESSAGE and not cut:
            cut.append(frame)
            host.drop()
            return False
        return True

    host = start_host(on_frame=cut_first_contact)
    guest = linux_guest(host.path, ["report"], reconnect=240)
    assert guest.wait(240) == ExitStatus.DONE
    assert host.hellos[1].last_sequence == cut[0].sequence
    again = next(frame for frame in host.frames if frame.op == POST_MESSAGE)
    assert (again.sequence, again.body) == (cut[0].sequence, cut[0].body)


def test_a_host_that_does_not_return_ends_the_guest(host: FakeHost, linux_guest: StartGuest) -> None:
    guest = linux_guest(host.path, ["say ready", "sleep 600"], reconnect=1)
    guest.wait_for_line("ready", 120)
    host.close()
    assert guest.wait(240) == ExitStatus.HOST_GONE
    assert any("did not return within 1 s" in line for line in guest.lines)


def vanishes(group: int) -> bool:
    """Whether the process group comes to its end (killed processes are there until they are reaped)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_killed_guest_leaves_no_process_and_the_host_serves_the_next(host: FakeHost, linux_guest: StartGuest) -> None:
    guest = linux_guest(host.path, ["say ready", BUSY])
    guest.wait_for_line("ready", 120)
    os.kill(guest.pid, signal.SIGKILL)
    assert guest.wait(240) == 128 + signal.SIGKILL
    assert vanishes(guest.pid)
    assert linux_guest(host.path, ["report"]).wait(240) == ExitStatus.DONE
