"""Scapy layers for everything on VMBus, generated from the declarations in ``vmbus.wire``."""
