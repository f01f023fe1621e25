"""How two partitions are joined: addresses by ``scheme:params``, and the partition protocol's two ends.

``address`` names transports, ``frames`` cuts the stream, ``server`` is the host's end of one guest and ``client`` a
Python guest's end.  docs/partition-protocol.md is the specification.
"""

from vmbus.transport.address import Address, AddressError, connect, listen, parse_address

__all__ = ["Address", "AddressError", "connect", "listen", "parse_address"]
