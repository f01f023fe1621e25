"""The host's runtime: joins the control plane, a transport and devices, and serves one guest at a time.

``server`` has the host's life: listening, accepting, stopping; ``partition`` is one connected guest; ``bus`` is what
each device sees of it.
"""

from vmbus.host.server import Host

__all__ = ["Host"]
