"""What the control messages of a connection add up to: its version and the life of every channel and GPADL."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from dissectors.engine.channels import ChannelLife, GpadlLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import Dialect
from dissectors.engine.dialects.control import message_type, parse_body
from vmbus.wire import control as c
from vmbus.wire.control_values import NO_MONITOR, MessageType, Version
from vmbus.wire.guids import interface_name
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import NIL_GUID


class ControlState:
    """Follows the control plane of one connection."""

    def __init__(self, make_dialect: Callable[[ChannelLife], Dialect], *, keeps_past_lives: bool = True) -> None:
        """Without ``keeps_past_lives`` what is over is forgotten: of sockets there can be more than memory holds."""
        self._make_dialect = make_dialect
        self._keeps_past_lives = keeps_past_lives
        self.channels: dict[int, ChannelLife] = {}
        self.on_begin: Callable[[ChannelLife], None] = lambda life: None
        """Is told of each life that begins."""
        self.gpadls: dict[int, GpadlLife] = {}
        self.version: Version | None = None
        """What both ends agreed on; None until it was seen."""
        self.features = 0
        self._requested: Version | None = None
        self._lives: dict[int, ChannelLife] = {}
        self._primaries: dict[tuple[UUID, UUID], ChannelLife] = {}
        """The primary channel of each device, by interface and instance."""

    @property
    def lives(self) -> list[ChannelLife]:
        """Every life of every channel that was not forgotten, in order of appearance."""
        return list(self._lives.values())

    def life(self, channel_id: int) -> ChannelLife:
        """The channel's current life; one of an unknown kind begins if there is none."""
        found = self.channels.get(channel_id)
        return found if found is not None else self._begin(ChannelLife(channel_id, "unknown"))

    def _begin(self, life: ChannelLife) -> ChannelLife:
        life.dialect = self._make_dialect(life)
        if life.interface_id == NIL_GUID and life.dialect.name != "ring":
            life.name = life.dialect.name
        self.channels[life.channel_id] = self._lives[id(life)] = life
        self.on_begin(life)
        return life

    def observe(self, item: Decoded) -> None:
        """A control message passes."""
        number = message_type(item)
        if number == MessageType.UNLOAD_COMPLETE:
            self._unloaded(item)
            return
        body = parse_body(item)
        match body:
            case None:
                return
            case c.InitiateContact() | c.InitiateContact5():
                self._requested = body.version
            case c.VersionResponse():
                if body.version_supported:
                    self.version = self._requested or self.version
                    self.features = int(getattr(body, "features", 0))
            case OfferChannel() | OfferChannelPre7():
                self._offered(item, body)
            case c.GpadlHeader():
                self._gpadl_header(item, body)
            case c.GpadlBody():
                if (unfinished := self.gpadls.get(body.gpadl_id)) is not None:
                    unfinished.received_bytes += 8 * len(body.words)
            case c.GpadlTorndown():
                self._torn_down(item, body.gpadl_id)
            case _:
                self._of_channel(item, body)
        if item.channel is None and item.channel_id:
            item.channel = self.channels.get(item.channel_id)

    def _offered(self, item: Decoded, body: OfferChannel | OfferChannelPre7) -> None:
        name = interface_name(body.interface_id)
        if body.subchannel_index:
            name = f"{name}/{body.subchannel_index}"
        earlier = self.channels.get(body.channel_id)
        if earlier is not None:
            self._is_over(earlier)
            if not earlier.offered and earlier.interface_id == NIL_GUID:
                self._lives.pop(id(earlier), None)
        life = ChannelLife(
            body.channel_id,
            name,
            body.interface_id,
            body.instance_id,
            body.subchannel_index,
            int(body.flags),
            int(getattr(body, "connection_id", 0)),
            body.monitor_id if body.monitor_allocated and body.monitor_id != NO_MONITOR else None,
            offered=item.number,
        )
        device = body.interface_id, body.instance_id
        if not life.subchannel_index:
            self._primaries[device] = life
        elif (primary := self._primaries.get(device)) is not None:
            life.primary = primary
            primary.subchannels.append(life)
        item.channel = self._begin(life)
        self._happened(life, item, "offered")

    def _is_over(self, life: ChannelLife) -> None:
        """Its device's subchannels are not its own any more, and it may be forgotten."""
        device = life.interface_id, life.instance_id
        if self._primaries.get(device) is life:
            del self._primaries[device]
        if not self._keeps_past_lives:
            self._lives.pop(id(life), None)

    def _of_channel(self, item: Decoded, body: object) -> None:
        channel_id = getattr(body, "channel_id", None)
        if channel_id is None:
            return
        life = self.life(channel_id)
        item.channel = life
        match body:
            case c.OpenChannel():
                life.open_requested, life.opened, life.closed = item.number, 0, 0
                life.open_status = None
                life.ring_gpadl_id, life.target_vp = body.ring_gpadl_id, body.target_vp
                self._happened(life, item, f"open requested, rings in GPADL {body.ring_gpadl_id:#x}")
            case c.OpenResult():
                life.open_status = int(body.status)
                if body.status.succeeded:
                    life.opened = item.number
                self._happened(life, item, f"open answered: {body.status}")
            case c.CloseChannel():
                life.closed, life.opened, life.open_requested = item.number, 0, 0
                self._happened(life, item, "closed")
            case c.RescindChannelOffer():
                life.rescinded = item.number
                self._happened(life, item, "rescinded")
            case c.RelIdReleased():
                life.released = item.number
                self._happened(life, item, "released")
                for gpadl_id in life.gpadls:  # Linux does not tear down those of a channel that was rescinded
                    self.gpadls.pop(gpadl_id, None)
                self._is_over(life)
                self.channels.pop(channel_id, None)
            case c.GpadlCreated():
                if (gpadl := self.gpadls.get(body.gpadl_id)) is not None:
                    gpadl.created, gpadl.status = item.number, int(body.status)
                self._happened(life, item, f"GPADL {body.gpadl_id:#x} created: {body.status}")
            case c.GpadlTeardown():
                if (gpadl := self.gpadls.get(body.gpadl_id)) is not None:
                    gpadl.teardown = item.number
                self._happened(life, item, f"GPADL {body.gpadl_id:#x} to be torn down")
            case c.ModifyChannel():
                life.target_vp = body.target_vp
                self._happened(life, item, f"moved to VP {body.target_vp}")

    def _gpadl_header(self, item: Decoded, body: c.GpadlHeader) -> None:
        life = self.life(body.channel_id)
        item.channel = life
        gpadl = GpadlLife(body.gpadl_id, body.channel_id, body.range_bytes, item.number, 8 * len(body.words))
        self.gpadls[body.gpadl_id] = life.gpadls[body.gpadl_id] = gpadl
        self._happened(life, item, f"GPADL {body.gpadl_id:#x} announced")

    def _torn_down(self, item: Decoded, gpadl_id: int) -> None:
        gpadl = self.gpadls.pop(gpadl_id, None)
        if gpadl is None:
            return
        gpadl.torn_down = item.number
        life = self.life(gpadl.channel_id)
        if life.gpadls.pop(gpadl_id, None) is not None:
            life.past_gpadls.append(gpadl)
        item.channel, item.channel_id = life, life.channel_id
        self._happened(life, item, f"GPADL {gpadl_id:#x} torn down")

    def _unloaded(self, item: Decoded) -> None:
        for life in self.channels.values():
            life.unloaded = item.number
            self._happened(life, item, "connection unloaded")
            self._is_over(life)
        self.channels.clear()
        self.gpadls.clear()
        self.version, self.features = None, 0

    def _happened(self, life: ChannelLife, item: Decoded, what: str) -> None:
        life.history.append((item.number, item.time_ns, what))
