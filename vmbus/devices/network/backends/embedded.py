"""``embedded``: a network in this process, that needs no privileges. ``embedded[:net=10.7.0.0/24]``.

The first address of the network is ours: it answers ARP, DHCP (which gives the guest the second address) and ICMP
echo, and it has servers that tests and demos use (``services.py``): echo, discard, source and digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from vmbus.devices.network.backend import ALL_CHECKED, Backend, Deliver, GuestFrame
from vmbus.devices.network.dhcp import DhcpServer
from vmbus.devices.network.options import BadNicOption
from vmbus.devices.network.services import install_services
from vmbus.inet.frame import OutgoingFrame
from vmbus.inet.host import InetHost
from vmbus.loop import Loop
from vmbus.state_format import State

DEFAULT_NETWORK = IPv4Network("10.7.0.0/24")
GATEWAY_MAC = bytes.fromhex("02155d000001")


class EmbeddedNetwork(Backend):
    """A network of two: the guest and this process."""

    takes_offloads = True

    def __init__(self, network: IPv4Network = DEFAULT_NETWORK) -> None:
        self.network = network
        self.gateway = network[1].packed
        self.guest_address = network[2].packed
        self.host: InetHost | None = None
        self.on_host: list[Callable[[InetHost], object]] = [install_services]
        """Called with the tiny host when there is one: a test or a demo adds its own servers here."""
        self._deliver: Deliver | None = None

    def start(self, loop: Loop, deliver: Deliver) -> None:
        self._deliver = deliver
        if self.host is None or self.host.loop is not loop:
            self.host = InetHost(loop, GATEWAY_MAC, self.gateway, self._send, mtu=self.mtu)
            DhcpServer(self.host, self.network, self.guest_address)
            for install in self.on_host:
                install(self.host)
        self.host.resume()

    def stop(self) -> None:
        # Connections stay, as they do when a cable is pulled out: they go on when frames flow again, or time out.
        self._deliver = None
        if self.host is not None:
            self.host.drop_queued()

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        host = self.host
        if host is None:
            return
        for frame, offload in frames:
            host.receive(bytes(frame), checked=offload is not None and offload.fill_transport)
        host.flush()

    def resume(self) -> None:
        if self.host is not None:
            self.host.resume()

    def close(self) -> None:
        if self.host is not None:
            self.host.forget()

    def _send(self, frames: Sequence[OutgoingFrame]) -> int:
        if self._deliver is None:
            return len(frames)
        return self._deliver([frame.frame for frame in frames], ALL_CHECKED)

    def inspect(self) -> State:
        state: State = {"network": str(self.network), "gateway": str(self.network[1]), "guest": str(self.network[2])}
        if self.host is not None:
            state |= {
                "frames_from_guest": self.host.received,
                "frames_to_guest": self.host.sent,
                "ignored": self.host.ignored,
                "connections": len(self.host.tcp.connections),
            }
        return state


def backend_from(params: str) -> Backend:
    """``[net=NETWORK/BITS]``"""
    key, _, value = params.partition("=")
    if not params:
        return EmbeddedNetwork()
    if key != "net":
        raise BadNicOption(f"the embedded network has one parameter, net=10.7.0.0/24, and {params!r} was given")
    try:
        network = IPv4Network(value)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise BadNicOption(f"net={value} is not an IPv4 network: {error}") from None
    if network.prefixlen > 29:
        raise BadNicOption(f"net={value} is too small: a network of at least 8 addresses (/29) is needed")
    return EmbeddedNetwork(network)
