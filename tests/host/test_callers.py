"""Who connects to a host and says nothing is no guest, and stands in no guest's way."""

from __future__ import annotations

import logging
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmbus.devices.echo import Echo
from vmbus.guest.program import booted_guest
from vmbus.host import Host
from vmbus.host.server import MAX_WAITING
from vmbus.loop import Callback, Loop, LoopThread, Timer, is_readable
from vmbus.testing.descriptors import full_table, open_descriptors
from vmbus.testing.partitions import PartitionPair
from vmbus.testing.waiting import until
from vmbus.transport import connect, parse_address
from vmbus.transport.client import HostRefused
from vmbus.transport.frames import build_frame
from vmbus.wire.partition import Operation


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    address = f"unix:{tmp_path / 'host'}"
    host = Host([Echo()])
    host.listen(parse_address(address))
    thread = LoopThread(host.loop, "vmbus-host")
    thread.start()
    yield address
    thread.stop()
    host.close()


def connected(address: str) -> socket.socket:
    connection = connect(parse_address(address))
    connection.settimeout(60)
    return connection


def test_a_guest_is_served_while_others_have_connected_and_say_nothing(address: str) -> None:
    silent = [connected(address) for _ in range(5)]
    with booted_guest(address), pytest.raises(HostRefused, match="busy"), booted_guest(address):
        pass
    for one in silent:
        one.close()


def test_who_says_no_hello_is_closed(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("vmbus.transport.server.HELLO_SECONDS", 0.2)
    with connected(address) as silent:
        assert silent.recv(1) == b""
    assert until(lambda: "who connected said no hello in 0 s" in caplog.text)


def test_who_has_said_hello_may_be_silent_for_as_long_as_it_likes(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.transport.server.HELLO_SECONDS", 61.5)
    timers: list[Timer] = []
    call_later = Loop.call_later

    def kept(loop: Loop, seconds: float, callback: Callback) -> Timer:
        timer = call_later(loop, seconds, callback)
        if seconds == 61.5:
            timers.append(timer)
        return timer

    monkeypatch.setattr(Loop, "call_later", kept)
    with booted_guest(address) as guest:
        assert [timer.callback for timer in timers] == [None], "nobody waits for its hello any more"
        guest.loop.run(timeout=0.1)
        assert guest.gone is None
        with pytest.raises(HostRefused, match="busy"), booted_guest(address):
            pass


def test_however_many_are_silent_a_guest_that_is_served_stays(address: str) -> None:
    with booted_guest(address) as guest:
        silent = [connected(address) for _ in range(MAX_WAITING + 1)]
        assert silent[0].recv(1) == b""
        guest.loop.run(timeout=0.1)
        assert guest.gone is None
        for one in silent:
            one.close()


def test_a_guest_that_says_hello_before_its_predecessor_is_seen_to_be_gone_is_served() -> None:
    with PartitionPair([Echo()]) as pair, ThreadPoolExecutor() as other:
        first, second = pair.guest, pair.new_guest()
        held, go_on = threading.Event(), threading.Event()
        pair.host.loop.call_soon_threadsafe(lambda: (held.set(), go_on.wait(60)))
        assert held.wait(60)
        booted = other.submit(second.boot)
        assert until(lambda: is_readable(pair.host._waiting[0]._socket))  # the host finds the hello first
        first._connection.close()
        go_on.set()
        booted.result(60)
        assert second.gone is None and len(second.offers) == 1


def test_the_first_of_too_many_silent_ones_is_closed(address: str) -> None:
    silent = [connected(address) for _ in range(MAX_WAITING + 1)]
    assert silent[0].recv(1) == b""
    silent[1].settimeout(0.2)
    with pytest.raises(TimeoutError):
        silent[1].recv(1)
    for one in silent:
        one.close()


def test_descriptors_without_a_whole_hello_are_not_held(address: str) -> None:
    open_before = len(open_descriptors())
    with open(os.devnull) as null:
        for data in (b"\0", build_frame(Operation.HELLO, bytes(56))[:-1]):
            with connected(address) as hoarder:
                socket.send_fds(hoarder, [data], [null.fileno()] * 65)
                assert hoarder.recv(1) == b""
    assert until(lambda: len(open_descriptors()) <= open_before)


def test_a_hello_that_the_table_of_descriptors_has_no_room_for_is_refused_and_the_next_one_served() -> None:
    pair = PartitionPair([Echo()]).start()
    first = pair.new_guest(vp_count=8)
    before = len(open_descriptors())
    with pytest.raises(HostRefused), full_table(spare=9 + 2 + 4):  # those of the hello, the memory's, some interrupts
        first.boot()
    first.close()
    pair.in_host(lambda: None)
    assert len(open_descriptors()) < before
    pair.new_guest().boot()
    pair.close()


def test_what_a_guest_says_cannot_steer_the_terminal_that_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with PartitionPair([Echo()]) as pair:
        pair.guest.note("\x1b]0;owned\x07 caf\xe9\n\x9b2J")
        pair.guest.unload()
    (said,) = [record.getMessage() for record in caplog.records if "owned" in record.getMessage()]
    assert said == "\ufffd]0;owned\ufffd caf\xe9\ufffd\ufffd2J"


def test_a_host_may_have_as_many_descriptors_as_the_system_allows(tmp_path: Path) -> None:
    start = 'ulimit -Sn 200; exec "$@"'
    host = [sys.executable, "-m", "vmbus", "host", f"unix:{tmp_path / 'host'}", "--device", "echo"]
    with subprocess.Popen(["sh", "-c", start, "sh", *host], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline().startswith(b"listening")
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        process.terminate()
    assert soft == hard
