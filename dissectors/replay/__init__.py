"""The guest's side of a capture, played again to a live host: ``plan`` says what to do, ``player`` does it."""

from __future__ import annotations

from dissectors.replay.plan import Plan, ReplayFailed, Step, plan_replay
from dissectors.replay.player import Player, Result

__all__ = ["Plan", "Player", "ReplayFailed", "Result", "Step", "plan_replay"]
