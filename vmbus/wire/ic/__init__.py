"""The integration components: heartbeat, key-value pairs, shutdown, time, snapshots, file copy.

Each has a channel of its own that carries the same framework: ``framework`` has the header, the negotiation and the
root format, the other modules one service each.
"""
