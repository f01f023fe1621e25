"""Linux and we, with rings that are full nearly all the time: no wake-up is lost, nothing is lost, nothing is wrong.

The rings are as small as the drivers let them be. A guest that missed the signal for room, or a host that did, would
stop for ever: each test ends in time, with every request answered and its contents checked. That the rings were full
is read off from both ends' counters: Linux's in sysfs (``out_full_total``, ``drivers/hv/ring_buffer.c``), and ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from vmbus.channel import Channel
from vmbus.devices.catalog import make_devices
from vmbus.devices.network import NetworkProvider
from vmbus.devices.network.backend import Deliver, GuestFrame
from vmbus.devices.network.backends.embedded import GATEWAY_MAC, EmbeddedNetwork
from vmbus.inet.checksum import checksum, pseudo_header, word_sum
from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.loop import Loop
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

pytestmark = [pytest.mark.linux, pytest.mark.soak]

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")
SECONDS = 120 if SOAK else 3
MAC = bytes.fromhex("00155d0a0b0c")
NIC_RING = ["hv_netvsc.ring_size=64"]  # pages; the driver takes no fewer
STOPS_AT = (63 - 6.4) / 63
"""How full the data of that ring is when the card stops sending: less than 10 % of all its pages are free (Linux 6.12
``drivers/net/hyperv/netvsc.c``, ``RING_AVAIL_PERCENT_LOWATER``)."""
DISK_RING = ["hv_storvsc.storvsc_ringbuffer_size=4096"]

FULL_TOTAL = "/sys/bus/vmbus/devices/*/channels/*/out_full_total"

StartHost = Callable[..., RunningHost]


def until_stopped(command: str) -> str:
    """A line of a script: the command again and again, until there is a file ``/stop``."""
    return f"sh while ! [ -e /stop ]; do vmbus-guest-test {command} || exit 1; done"


class Fullest:
    """The most that was seen in a channel's two rings, looked at by a thread every few milliseconds."""

    def __init__(self, host: RunningHost, device: int) -> None:
        self.from_guest = self.to_guest = 0.0
        self.pending_send_sizes: set[int] = set()
        self._host, self._device = host, device

    def look(self) -> None:
        for channel in self._host.host.slots[self._device].channels.values():
            from_guest, to_guest = channel.incoming.memory.state(), channel.outgoing.memory.state()
            for name, state in (("from_guest", from_guest), ("to_guest", to_guest)):
                used = (state.write_index - state.read_index) % state.size / state.size
                setattr(self, name, max(getattr(self, name), used))
            self.pending_send_sizes.add(to_guest.pending_send_size)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        over = threading.Event()

        def look_again() -> None:
            while not over.wait(0.004):
                self._host.in_host(self.look)

        thread = threading.Thread(target=look_again)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def numbers(guest: LinuxGuest, word: str) -> list[int]:
    """What the guest has said behind a word."""
    return [int(found[1]) for line in guest.lines if (found := re.match(rf"{word} (\d+)$", line))]


def only_channel(host: RunningHost, device: int) -> Channel:
    (channel,) = host.host.slots[device].channels.values()
    return channel


def test_a_disk_whose_ring_holds_a_few_requests_answers_each(running_host: StartHost, linux_guest: StartGuest) -> None:
    host = running_host(make_devices(disks=["memory:64M"]))
    fullest = Fullest(host, 0)
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            # Of these requests three fit into the ring.
            f"background {until_stopped('iops /dev/sda 1 32 524288 r')}",
            f"background {until_stopped(f'disk-load /dev/sda {SECONDS} 16 7 32M')}",
            f"sh until [ $(cat {FULL_TOTAL}) -gt {100 * SECONDS} ]; do sleep .1; done",
            "say often-full",
            "@seen sh read line; touch /stop",
            "wait",
        ],
        append=DISK_RING,
    )
    with fullest.watched():
        guest.wait_for_line("often-full", 240 + 20 * SECONDS)
        assert until(lambda: fullest.from_guest > 0.7, 120)
        guest.write_line("")
        assert guest.wait(240 + 20 * SECONDS) == ExitStatus.DONE


class Flooding(EmbeddedNetwork):
    """A network that sends datagrams, one packet each, whenever the ring takes one, and is slow to take frames."""

    def __init__(self) -> None:
        super().__init__()
        self.flooding = False
        self.slow = 0.0
        self.on_late: Callable[[], bool] = lambda: False
        """Called in the host's thread when frames have been kept waiting; whether the guest needs more time to fill
        the ring."""
        self.sent = 0
        self._frame = datagram(self.gateway, self.guest_address, b"checked by the guest's kernel".ljust(64))
        self._loop: Loop | None = None

    def start(self, loop: Loop, deliver: Deliver) -> None:
        super().start(loop, deliver)
        self._loop = loop

    def flood(self) -> None:
        """Fill the ring; ``resume`` goes on when there is room again."""
        for _ in range(512):
            if not self.flooding or self._deliver is None or not self._deliver([self._frame]):
                return
            self.sent += 1
        assert self._loop is not None
        self._loop.call_soon(self.flood)

    def has_sent_more(self, before: int) -> bool:
        return self.sent > before

    def resume(self) -> None:
        super().resume()
        self.flood()

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        self.on_late()
        time.sleep(self.slow)
        while self.on_late():
            time.sleep(0.1)
        super().transmit(frames)


def datagram(source: bytes, target: bytes, payload: bytes) -> bytes:
    """A frame with a UDP datagram to port 9999, checksums filled in."""
    udp = b"\x00\x07\x27\x0f" + (8 + len(payload)).to_bytes(2, "big")
    total = pseudo_header(source, target, 17, 8 + len(payload)) + word_sum(udp + payload)
    udp += checksum(total).to_bytes(2, "big") + payload
    ip = b"\x45\x00" + (20 + len(udp)).to_bytes(2, "big") + b"\x00\x00\x40\x00\x40\x11"
    ip += checksum(word_sum(ip + source + target)).to_bytes(2, "big") + source + target
    return MAC + GATEWAY_MAC + b"\x08\x00" + ip + udp


def pause(guest: LinuxGuest, host: RunningHost, network: Flooding, fullest: Fullest, times: int) -> None:
    """Stop the guest's processor until its ring is full, and let it find that full, so many times."""
    outgoing = only_channel(host, 0).outgoing

    def is_full() -> bool:
        fullest.look()
        return outgoing.memory.state().pending_send_size > 0

    for _ in range(times):
        os.kill(guest.pid, signal.SIGSTOP)
        try:
            assert until(lambda: host.in_host(is_full), 120)
            sent = network.sent
        finally:
            os.kill(guest.pid, signal.SIGCONT)
        assert until(partial(network.has_sent_more, sent), 120)


def test_a_card_whose_ring_to_the_guest_is_full_loses_no_frame(
    running_host: StartHost, linux_guest: StartGuest
) -> None:
    network = Flooding()
    host = running_host([NetworkProvider(network, mac=MAC)])
    fullest = Fullest(host, 0)
    guest = linux_guest(
        host.address,
        [
            "wait-path /sys/class/net/eth0 120",
            "ifup eth0 10.7.0.2/24",
            "say flood",
            f"background udp-receive 9999 {SECONDS}",
            f"stream-echo tcp:10.7.0.1:7 {256 * SECONDS}K 3",
            "wait",
            "say enough",
            "@calm sh read line",
            "ping 10.7.0.1 10 1400",
            "sh echo RECEIVED $(cat /sys/class/net/eth0/statistics/rx_packets)",
            "sh echo BAD $(awk '/^Udp: [0-9]/ { print $8 }' /proc/net/snmp)",
        ],
        append=NIC_RING,
    )

    def start() -> None:
        network.flooding = True
        network.flood()

    guest.wait_for_line("flood", 120)
    host.in_host(start)
    pauses = 5 * SECONDS
    with fullest.watched():
        pause(guest, host, network, fullest, pauses)
        guest.wait_for_line("enough", 240 + 20 * SECONDS)
    network.flooding = False
    card = host.host.slots[0].device
    assert isinstance(card, NetworkProvider)
    channel = only_channel(host, 0)
    times_full = channel.outgoing.full
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE
    assert times_full >= pauses and fullest.to_guest > 0.9 and max(fullest.pending_send_sizes) > 0
    assert numbers(guest, "RECEIVED") == [card.card.frames_received] and network.sent > 1000 * SECONDS
    assert numbers(guest, "BAD") == [0]


def test_a_card_whose_ring_from_the_guest_is_full_goes_on_each_time(
    running_host: StartHost, linux_guest: StartGuest
) -> None:
    network = Flooding()
    network.slow = 0.002
    host = running_host([NetworkProvider(network, mac=MAC)])
    fullest = Fullest(host, 0)
    # A socket has room for some 280 small datagrams, and the ring for 4,000: many senders fill it, one does not.
    burst = ["background udp-send 10.7.0.1 9 1 32"] * 24
    guest = linux_guest(
        host.address,
        [
            "wait-path /sys/class/net/eth0 120",
            "ifup eth0 10.7.0.2/24",
            *[*burst, "wait", "ping 10.7.0.1 2 1400"] * SECONDS,
            *burst,
            "stream-send tcp:10.7.0.1:90 256K 5",
        ],
        append=NIC_RING,
    )

    def is_filling() -> bool:
        before = fullest.from_guest
        fullest.look()
        return before < fullest.from_guest <= STOPS_AT

    network.on_late = is_filling
    assert guest.wait(240 + 10 * SECONDS) == ExitStatus.DONE
    assert fullest.from_guest > STOPS_AT
