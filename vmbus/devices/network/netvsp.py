"""The network provider: a synthetic Ethernet card as a device on the bus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final
from uuid import UUID, uuid5

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.device import Device, OfferTraits
from vmbus.devices.network.backend import Backend
from vmbus.devices.network.buffers import ReceiveBuffer, SendBuffer, next_epoch, suballocation_size
from vmbus.devices.network.errors import UnexpectedMessage
from vmbus.devices.network.oids import ALL_RECEIVE_CHECKSUMS, CardState, Offloads
from vmbus.devices.network.options import NicSpec
from vmbus.devices.network.queue import Queue
from vmbus.devices.network.rndis import RndisState
from vmbus.devices.network.session import Session
from vmbus.state_format import State
from vmbus.wire.guids import NETWORK
from vmbus.wire.nvsp import NdisCapabilities, NvspVersion
from vmbus.wire.rndis_oid import PacketFilter

QUIET_SECONDS: Final = 0.1
"""A guest that has sent nothing for so long has stopped."""

_NAMESPACE: Final = UUID("6f1d2c3b-6e65-7476-7370-000000000000")
"""Instances of cards are named after their backend and Ethernet address, so that they are the same in every run."""


class NetworkProvider(Device):
    """One card: NVSP up to 6.1 and RNDIS towards the guest, a backend on the other side."""

    interface_id = NETWORK
    name = "net"
    offer = OfferTraits()

    def __init__(
        self,
        backend: Backend,
        *,
        mac: bytes,
        instance_id: UUID | None = None,
        queues: int = 1,
        newest_version: NvspVersion = NvspVersion.V61,
        offloads: bool = True,
    ) -> None:
        """``queues`` is the most channels of a guest, the primary one included. ``offloads=False`` offers none."""
        self.backend = backend
        self.instance_id = instance_id or uuid5(_NAMESPACE, mac.hex())
        self.newest_version = newest_version
        takes, coalesces = offloads and backend.takes_offloads, offloads and backend.coalesces
        self.card = CardState(mac, queues=queues, supported=Offloads(takes, takes, takes, coalesces, coalesces))
        self.session: Session | None = None
        self._saved: State | None = None

    @classmethod
    def from_spec(cls, spec: NicSpec, backend: Backend) -> NetworkProvider:
        """The card that ``--nic`` describes."""
        if spec.mtu is not None:
            backend.mtu = spec.mtu
        mac = spec.mac or default_mac(spec.backend)
        return cls(backend, mac=mac, queues=spec.queues, instance_id=uuid5(_NAMESPACE, f"{spec.backend} {mac.hex()}"))

    def open(self, channel: Channel) -> ChannelHandler:
        assert self.bus is not None
        if channel.subchannel_index == 0:
            if self.session is not None:
                raise UnexpectedMessage("the card's primary channel is open already")
            self.card.frame_size = 1514
            self.session = Session(self.card, self.backend, channel.loop, self.bus.note)
            queue = Queue(self.session, channel, self._ended)
            if queue.control is not None:
                queue.control.newest = self.newest_version
                queue.control.offer_subchannels = self.bus.offer_subchannels
            self.session.queues[0] = queue
            if self._saved is not None:
                saved, self._saved = self._saved, None
                self._resume(self.session, channel, saved)
            return queue
        session = self.session
        if session is None or not 0 < channel.subchannel_index <= session.subchannels:
            raise UnexpectedMessage(f"subchannel {channel.subchannel_index} of a card was opened and never offered")
        queue = Queue(session, channel, self._ended)
        session.queues[channel.subchannel_index] = queue
        primary = session.queues.get(0)
        if len(session.queues) == session.subchannels + 1 and primary is not None and primary.control is not None:
            primary.control.send_table()
        return queue

    def _ended(self, queue: Queue) -> None:
        session = queue.session
        session.queues.pop(queue.index, None)
        if queue.index == 0 and session is self.session:
            self.session = None
            session.close()

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out."""
        if self.session is not None:
            self.session.set_link(up)
        else:
            self.card.link_up = up

    def retire(self, done: Callable[[], None]) -> None:
        """Tell the guest that the link is down, and wait until it has stopped sending.

        Linux acts on a changed link at most every two seconds (``LINKCHANGE_INT``).
        """
        session, bus = self.session, self.bus
        if session is None or bus is None or not self.card.link_up:
            done()
            return
        self.set_link(False)
        last = -1

        def look() -> None:
            nonlocal last
            seen = sum(queue.channel.counters.packets_in for queue in session.queues.values())
            if seen != last and self.session is session:
                last = seen
                bus.loop.call_later(QUIET_SECONDS, look)
                return
            self.card.link_up = True
            done()

        look()

    def save(self) -> State:
        if self.session is not None:
            for queue in self.session.queues.values():
                queue.complete_held()
        return self._state(ReceiveBuffer.save)

    def checkpoint(self) -> State:
        return self._state(ReceiveBuffer.checkpoint)

    def _state(self, of_buffer: Callable[[ReceiveBuffer], State]) -> State:
        session, card = self.session, self.card
        state: State = {"mac": card.mac.hex(), "link_up": card.link_up}
        if session is not None and session.version is not None:
            state["session"] = {
                "version": int(session.version),
                "frame_size": card.frame_size,
                "capabilities": int(session.capabilities),
                "configured": session.configured,
                "ndis_version": session.ndis_version,
                "rndis": session.rndis.state.value,
                "filter": int(card.filter),
                "receive_table": list(card.receive_table),
                "coalescing": [card.enabled.coalescing_ipv4, card.enabled.coalescing_ipv6],
                "receive_checksums": list(card.enabled.receive_checksums),
                "subchannels": session.subchannels,
                "send_buffer": session.send_buffer.gpadl_id if session.send_buffer is not None else None,
                "receive_buffer": of_buffer(session.receive_buffer) if session.receive_buffer is not None else None,
            }
        return state

    def restore(self, state: State) -> None:
        self.card.mac = bytes.fromhex(state["mac"])
        self.card.link_up = state["link_up"]
        self._saved = state.get("session")

    def forget_guest(self) -> None:
        self._saved = None

    def _resume(self, session: Session, channel: Channel, saved: State) -> None:
        """Go on where another host process stopped: the guest notices nothing."""
        card = self.card
        session.negotiated(NvspVersion(saved["version"]))
        session.capabilities = NdisCapabilities(saved["capabilities"])
        session.configured = saved["configured"]
        session.ndis_version = tuple(saved["ndis_version"]) if saved["ndis_version"] else None
        session.rndis.state = RndisState(saved["rndis"])
        session.subchannels = saved["subchannels"]
        card.frame_size = saved["frame_size"]
        card.receive_table = tuple(saved["receive_table"])
        if saved["send_buffer"] is not None:
            session.send_buffer = SendBuffer(channel.gpadl(saved["send_buffer"]))
        receive = saved["receive_buffer"]
        if receive is None:
            session.has_revoked = session.subchannels > 0
            session.first_transaction = next_epoch()
        else:
            gpadl = channel.gpadl(receive["gpadl_id"])
            size = receive.get("suballocation_size", suballocation_size(card.frame_size))
            session.receive_buffer = ReceiveBuffer(gpadl, receive["set_id"], size)
            session.receive_buffer.restore(receive)
        card.enabled.coalescing_ipv4, card.enabled.coalescing_ipv6 = saved.get("coalescing", (False, False))
        card.enabled.receive_checksums = tuple(saved.get("receive_checksums", ALL_RECEIVE_CHECKSUMS))
        card.filter = PacketFilter(saved["filter"])
        session.apply_card()

    def inspect(self) -> State:
        card = self.card
        return {
            "mac": card.mac.hex(":"),
            "mtu": card.frame_size - 14,
            "link_up": card.link_up,
            "filter": str(card.filter),
            "frames_from_guest": card.frames_sent,
            "bytes_from_guest": card.bytes_sent,
            "frames_to_guest": card.frames_received,
            "bytes_to_guest": card.bytes_received,
            "dropped": card.dropped,
            "backend": self.backend.inspect(),
            "session": None if self.session is None else self.session.inspect(),
        }

    def close(self) -> None:
        self.backend.close()


def default_mac(text: str) -> bytes:
    """An Ethernet address under Microsoft's prefix for virtual cards, the same for the same text."""
    return b"\x00\x15\x5d" + hashlib.sha256(text.encode()).digest()[:3]
