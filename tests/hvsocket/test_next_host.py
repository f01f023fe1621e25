"""What a guest has asked for and not got when its host ends is carried out by the next host."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vmbus.devices.hvsocket import VsockRelay
from vmbus.testing.servicing import Restarts
from vmbus.wire.hvsocket import service_of_port


class HostsWithSockets(Restarts):
    """Hosts that follow each other, each with a relay at the same path."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "v"
        super().__init__(directory / "state", list)

    def _start(self) -> None:
        super()._start()
        self.host.sockets = self.relay = self.in_host(lambda: VsockRelay(self.host, self.path))

    def end(self, *, kill: bool) -> None:
        self.in_host(self.relay.close)
        super().end(kill=kill)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_socket_that_waits_for_a_busy_listener_is_connected_by_the_next_host(tmp_path: Path, kill: bool) -> None:
    hosts = HostsWithSockets(tmp_path)
    guest = hosts.guest
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{hosts.path}_20")
        listener.listen(0)
        listener.settimeout(60)
        first, second = (guest.bus.connect_socket(service_of_port(20), service_of_port(port)) for port in (90, 91))
        assert guest.loop.run(lambda: first.done, timeout=60) and not second.done
        hosts.restart(kill=kill)
        listener.accept()[0].close()
        assert guest.loop.run(lambda: second.done, timeout=60)
        assert second.result() in guest.offers
    hosts.close()
