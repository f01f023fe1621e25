"""The synthetic network card, guest end (netvsc), and a card to use in tests, tools and demos."""

from __future__ import annotations

from vmbus.drivers.network.card import NetworkCard, TcpStream
from vmbus.drivers.network.vsc import NetworkDriver

__all__ = ["NetworkCard", "NetworkDriver", "TcpStream"]
