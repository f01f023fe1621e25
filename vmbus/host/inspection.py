"""The live state of a host as a tree of plain values: what ``vmbus ctl inspect`` shows.

Everything here reads and changes nothing. It runs in the loop's thread, between two callbacks, so that what it shows
belongs together; only what a guest can write (the words of a ring's control page) may change while it is read, and is
shown as it was found, unchecked.

The model is openvmm's ``Inspect`` tree on every state struct (``support/inspect``), with paths to a part of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vmbus import __version__
from vmbus.control.offers import Channel as OfferedChannel
from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.outgoing import OutgoingRing
from vmbus.wire.hypervisor import Msr

if TYPE_CHECKING:
    from vmbus.channel import Channel
    from vmbus.host.bus import DeviceSlot
    from vmbus.host.partition import HostPartition
    from vmbus.host.server import Host

Tree = dict[str, Any]
"""Names and values that ``json`` can write; values may be trees."""


class NoSuchPart(VmbusError):
    """The tree has nothing at that path."""


def inspect_host(host: Host) -> Tree:
    """The whole tree: the host, its guest if there is one, its devices and their channels by id."""
    partition = host.partition if host.partition is not None and host.partition.memory is not None else None
    return {
        "host": {"version": __version__, "process": os.getpid(), "guests_served": host.guests_served},
        "guest": None if partition is None else _guest(partition),
        "connection": None if partition is None else _connection(partition),
        "devices": {slot.label: _device(slot) for slot in host.slots},
        "channels": {} if partition is None else _channels(partition),
    }


def part_of(tree: Tree, path: str) -> Any:
    """What stands at ``path`` (names with ``/`` between them) in a tree.

    Raises ``NoSuchPart``, which says what there is instead.
    """
    found: Any = tree
    walked: list[str] = []
    for name in filter(None, path.split("/")):
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            there = ", ".join(found) if isinstance(found, dict) and found else "nothing"
            raise NoSuchPart(f"there is no {name!r} in {'/'.join(walked) or 'the tree'}: there is {there}")
        walked.append(name)
    return found


def _guest(partition: HostPartition) -> Tree:
    memory = partition.memory
    assert memory is not None
    return {
        "id": str(partition.guest_id),
        "memory": {"size": memory.size, "first_gpa": hex(memory.first_gpa)},
        "processors": {
            str(vp.index): {
                "registers": {str(Msr(number)): hex(value) for number, value in sorted(vp.registers.items())},
                "queued_messages": {str(sint): count for sint, count in vp.queued.items()},
            }
            for vp in partition.vps
        },
    }


def _connection(partition: HostPartition) -> Tree:
    control = partition.control
    tree: Tree = {"state": control.connection.name.lower()}
    if control.info is not None:
        info = control.info
        pages = info.monitor_pages
        tree |= {
            "version": info.version.number,
            "features": str(info.features),
            "client_id": str(info.client_id),
            "offers_sent": info.offers_sent,
            "message_processor": info.target_message_vp,
            "interrupt_page": None if info.interrupt_page is None else hex(info.interrupt_page),
            "monitor_pages": None
            if pages is None
            else {
                "to_guest": hex(pages.parent_to_child),
                "to_host": hex(pages.child_to_parent),
                "provided_by_host": info.host_monitor_pages,
                **partition.monitor.inspect(),
            },
        }
    return tree


def _device(slot: DeviceSlot) -> Tree:
    device = slot.device
    return {
        "interface": str(device.interface_id),
        "instance": str(device.instance_id),
        "offered": slot.is_offered,
        "channels": {str(index): channel_id for index, channel_id in sorted(slot.channel_ids.items())},
        "state": device.inspect(),
    }


def _channels(partition: HostPartition) -> Tree:
    tree: Tree = {}
    for offered in partition.control.offers:
        slot, index = partition.slot_of(offered.channel_id)
        gpadls = partition.gpadls.get(offered.channel_id, {})
        channel = partition.channels.get(offered.channel_id)
        tree[str(offered.channel_id)] = {
            "device": slot.label if slot is not None else None,
            "subchannel": index,
            "state": offered.state.name.lower(),
            "connection_id": hex(offered.connection_id),
            "monitor": _monitor(offered),
            "gpadls": {hex(gpadl_id): _gpadl(gpadl) for gpadl_id, gpadl in gpadls.items()},
            "open": None if channel is None else _open_channel(channel),
        }
    return tree


def _monitor(offered: OfferedChannel) -> Tree | None:
    if offered.monitor_id is None:
        return None
    return {"id": offered.monitor_id, "latency_100ns": offered.traits.monitor_latency}


def _gpadl(gpadl: Gpadl) -> Tree:
    return {
        "ranges": len(gpadl.ranges),
        "pages": sum(len(one.pfns) for one in gpadl.ranges),
        "bytes": sum(one.byte_count for one in gpadl.ranges),
    }


def _open_channel(channel: Channel) -> Tree:
    counters = channel.counters
    return {
        "target_processor": channel.target_vp,
        "open_data": channel.identity.open_data.rstrip(b"\0").hex(),
        "from_guest": _ring(channel.incoming),
        "to_guest": _ring(channel.outgoing) | {"times_full": channel.outgoing.full, "waiting_packets": channel.backlog},
        "counters": {name: getattr(counters, name) for name in counters.__slots__},
        "handler": channel.handler.inspect(),
    }


def _ring(ring: IncomingRing | OutgoingRing) -> Tree:
    state = ring.memory.state()
    used = (state.write_index - state.read_index) % state.size
    return {
        "size": state.size,
        "read_index": state.read_index,
        "write_index": state.write_index,
        "used_bytes": used,
        "interrupts_masked": bool(state.interrupt_mask),
        "pending_send_size": state.pending_send_size,
        "features": hex(state.feature_bits),
        "packets": ring.packets,
        "bytes": ring.bytes,
        "signals": ring.signals,
    }
