"""A card on a TAP interface talks to the kernel of this machine, in a network namespace of the test's own."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from vmbus.devices.device import DeviceError
from vmbus.devices.network import open_backend
from vmbus.drivers.network import NetworkDriver
from vmbus.inet.pattern import pattern
from vmbus.testing.network import Wire

pytestmark = pytest.mark.tap

MakeWire = Callable[..., Wire]
RunIp = Callable[..., object]


@pytest.fixture
def tapped(ip: RunIp, make_wire: MakeWire) -> Iterator[Wire]:
    """A card on tap0, whose other end is the kernel at 10.9.0.1."""
    backend = open_backend("tap:tap0")
    ip("addr", "add", "10.9.0.1/24", "dev", "tap0")
    yield make_wire(backend)
    backend.close()


def test_the_kernel_answers_our_pings(tapped: Wire) -> None:
    card = tapped.card(address="10.9.0.2")
    assert card.ping("10.9.0.1", 56) < 30
    assert card.ping("10.9.0.1", 1400) < 30


@pytest.mark.parametrize("large", [False, True], ids=["single frames", "large frames"])
def test_a_stream_reaches_a_kernel_socket_and_comes_back(tapped: Wire, large: bool) -> None:
    server = socket.create_server(("10.9.0.1", 5000))

    def echo() -> None:
        connection, _ = server.accept()
        with connection, server:
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    data = pattern(0, 3 << 20)
    driver = NetworkDriver(large_sends=large, coalescing=large)
    stream = tapped.card(driver, address="10.9.0.2").connect("10.9.0.1", 5000)
    assert hashlib.sha256(stream.exchange(data)).digest() == hashlib.sha256(data).digest()
    thread.join(60)
    inspected = tapped.provider.inspect()
    assert inspected["backend"]["lost"] == 0
    assert (inspected["frames_from_guest"] < len(data) / 1460) == large
    assert (inspected["frames_to_guest"] < len(data) / 1460) == large


def test_a_frame_that_is_longer_than_the_card_takes_is_dropped(tapped: Wire, ip: RunIp) -> None:
    card = tapped.card(NetworkDriver(coalescing=False), address="10.9.0.2")
    card.ping("10.9.0.1")
    ip("link", "set", "tap0", "mtu", "9000")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(bytes(5000), ("10.9.0.2", 9))
    assert card.ping("10.9.0.1") < 30
    assert tapped.provider.card.dropped == 1


def test_an_interface_that_is_in_use_is_refused_in_one_line(ip: RunIp) -> None:
    first = open_backend("tap:tap1")
    with pytest.raises(DeviceError, match="another process has it open"):
        open_backend("tap:tap1")
    first.close()


def test_an_interface_of_another_kind_is_refused_in_one_line(ip: RunIp) -> None:
    with pytest.raises(DeviceError, match="it is no TAP interface"):
        open_backend("tap:lo")


@pytest.mark.parametrize("name", ["", "a/b", "name-of-more-than-15"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="not tap:NAME"):
        open_backend(f"tap:{name}")


def test_an_unprivileged_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(DeviceError, match="ip tuntap add dev tap9"):
        open_backend("tap:tap9")
