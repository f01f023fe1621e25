"""Rules about GPADLs."""

from __future__ import annotations

from collections.abc import Iterator

from dissectors.engine import Decoded
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import Watch
from vmbus.wire import control as c
from vmbus.wire.control_values import MessageType


@rule(
    "EX-13",
    Severity.ERROR,
    "Look at how the guest chooses ids: one is free only after the host said that it is torn down.",
)
def gpadl_id_in_use(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A GPADL id that is still in use, or an unfinished GPADL on a channel that is gone."""
    body = watch.body
    if isinstance(body, c.GpadlHeader):
        if body.gpadl_id in memory and not item.is_snapshot:
            yield f"GPADL id {body.gpadl_id:#x} is in use since record {memory[body.gpadl_id]}"
        memory[body.gpadl_id] = item.number
    elif isinstance(body, c.GpadlTorndown) or (isinstance(body, c.GpadlCreated) and not body.status.succeeded):
        memory.pop(body.gpadl_id, None)
    elif isinstance(body, c.RelIdReleased):
        for gpadl in (item.channel.gpadls if item.channel else {}).values():
            memory.pop(gpadl.gpadl_id, None)
            if not gpadl.is_complete:
                yield (
                    f"{watch.name(item)} is released, and of its GPADL {gpadl.gpadl_id:#x} only "
                    f"{gpadl.received_bytes} of {gpadl.range_bytes} bytes came"
                )
    elif watch.message in (MessageType.UNLOAD_COMPLETE, MessageType.INITIATE_CONTACT):
        memory.clear()


@rule(
    "EX-14",
    Severity.ERROR,
    "Look at the guest's error path: it gave back the same buffer twice, or one that was never made.",
)
def teardown_of_nothing(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A GPADL is torn down that does not exist."""
    body = watch.body
    if isinstance(body, c.GpadlHeader):
        memory[body.gpadl_id] = True
    elif isinstance(body, c.GpadlTeardown):
        if watch.saw_start and body.gpadl_id not in memory:
            yield f"GPADL {body.gpadl_id:#x} of {watch.name(item)} is torn down, and there is none of that id"
        memory.pop(body.gpadl_id, None)
    elif isinstance(body, c.RelIdReleased):
        for gpadl_id in item.channel.gpadls if item.channel else ():
            memory.pop(gpadl_id, None)
    elif watch.message in (MessageType.UNLOAD_COMPLETE, MessageType.INITIATE_CONTACT):
        memory.clear()


@rule(
    "EX-15",
    Severity.ERROR,
    "Look at the order of the guest's cleanup: close the channel, then tear down, then free the pages.",
)
def torn_down_in_use(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The rings' GPADL is torn down while the channel is open."""
    life, body = item.channel, watch.body
    if not isinstance(body, c.GpadlTeardown) or life is None or not life.opened or life.rescinded:
        return
    if body.gpadl_id == life.ring_gpadl_id:
        yield f"the rings of {watch.name(item)} are in GPADL {body.gpadl_id:#x}, torn down while it is open"
