"""The control plane of VMBus, sans-I/O: bytes in, events and bytes out; no sockets, no clocks, no asyncio.

``messages`` is the one table of control messages.  ``host_states`` and ``guest_states`` are the two state machines
over one vocabulary (``transitions``); read the essays at their heads to learn VMBus.  ``server`` runs the host's
end, ``client`` the guest's.
"""
