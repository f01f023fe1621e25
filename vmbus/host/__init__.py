"""The host's runtime: joins the control plane, a transport and devices, and serves one guest at a time.

``server`` has the host's life: listening, accepting, stopping; ``partition`` is one connected guest; ``bus`` is what
each device sees of it. A host and all devices are imported when ``Host`` is wanted: who only talks to one that runs
(``ctl_client``) starts in half the time without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmbus.host.server import Host


def __getattr__(name: str) -> Any:
    if name == "Host":
        from vmbus.host.server import Host

        return Host
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Host"]
