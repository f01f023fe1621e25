"""The synthetic network card, host end (netvsp).

How a frame travels to the outside: ``queue`` takes RNDIS packets off a channel, ``transmit`` finds the frames in
them, ``session`` hands them to the ``backend`` in one list. To the guest: the backend calls ``Session.deliver``,
which puts frames into suballocations of the receive ``buffers`` and sends them in transfer-page packets. ``control``
brings the channel up, ``rndis`` and ``oids`` answer what a guest asks of its card, and ``netvsp`` is the device that
holds it together.
"""

from __future__ import annotations

from vmbus.devices.network.backend import Backend, open_backend
from vmbus.devices.network.netvsp import NetworkProvider
from vmbus.devices.network.options import NicSpec, parse_nic_option

__all__ = ["Backend", "NetworkProvider", "NicSpec", "device_from", "open_backend", "parse_nic_option"]


def device_from(params: str) -> NetworkProvider:
    """The card that ``nic:BACKEND[,mac=..][,mtu=..][,queues=..]`` names; its backend is opened."""
    spec = parse_nic_option(params)
    return NetworkProvider.from_spec(spec, open_backend(spec.backend))
