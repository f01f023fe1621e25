"""A guest in Python: its memory, its virtual processors, the control plane's client, and drivers.

It speaks to a host in another process (``unix:PATH``) or to one in a thread of this process, over the same socket
protocol.  ``vmbus.linux`` has the real Linux guest, which speaks it too.
"""

from vmbus.guest.partition import Guest

__all__ = ["Guest"]
