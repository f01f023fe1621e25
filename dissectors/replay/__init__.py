"""A capture played again to a live partner.

To a host, the guest's side: ``plan`` says what to do, ``player`` does it.  To a guest, the host's side: ``script`` says
what answers what, ``host_player`` says it on the control plane and ``host_channel`` on each channel, at the pace that
``pace`` keeps.
"""

from __future__ import annotations

from dissectors.replay.host_player import HostPlayer
from dissectors.replay.plan import Plan, ReplayFailed, Step, plan_replay
from dissectors.replay.player import Player
from dissectors.replay.results import HostResult, Result
from dissectors.replay.script import HostScript, plan_host

__all__ = [
    "HostPlayer",
    "HostResult",
    "HostScript",
    "Plan",
    "Player",
    "ReplayFailed",
    "Result",
    "Step",
    "plan_host",
    "plan_replay",
]
