"""The engine that decodes: records in, lines, trees and conversations out.  No scapy and no terminal here.

    session = Session()
    for record in records:
        decoded = session.feed(record)
        print(decoded.number, decoded.arrow, decoded.channel_name, decoded.protocol, decoded.summary)

``decoded.tree`` holds every field with its value and its bytes.
"""

from __future__ import annotations

from dissectors.engine.channels import ChannelLife, GpadlLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session

__all__ = ["ChannelLife", "Decoded", "GpadlLife", "Session"]
