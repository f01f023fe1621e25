"""Rules about the integration services."""

from __future__ import annotations

from collections.abc import Iterator

from dissectors.engine import Decoded
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import Watch

LIMITS = {"key_size": 512, "value_size": 2048}
"""Bytes of a key and a value at most (Linux 6.12 ``include/uapi/linux/hyperv.h``: HV_KVP_EXCHANGE_MAX_*)."""


@rule("EX-31", Severity.ERROR, "Look at who made the pair, and at daemons that copy by this length.")
def pair_too_long(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A key-value pair says that it is longer than it can be."""
    if not watch.is_packet or item.protocol != "kvp":
        return
    for node in item.tree:
        limit = LIMITS.get(node.name)
        if limit is not None and isinstance(node.value, int) and node.value > limit:
            yield f"{node.name} on {watch.name(item)} is {node.value}; at most {limit} bytes fit"
