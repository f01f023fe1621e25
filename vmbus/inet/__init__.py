"""A tiny IPv4 host in user space: ARP, ICMP echo, UDP and TCP, over anything that carries Ethernet frames.

The embedded network backend (host end) and the guest driver's facade for tests and demos are both made of it. It is
for two ends of one machine: it knows no routes, no fragments and no congestion.
"""
