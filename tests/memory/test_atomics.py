"""Atomic operations, in both implementations, alone and against another process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from vmbus import atomics, native
from vmbus.memory import GuestMemory


@pytest.fixture(params=["ctypes", "native"])
def view_type(request):
    if request.param == "ctypes":
        return atomics.CtypesAtomicView
    if native.extension is None:
        pytest.skip("the C extension is not built, or not wanted")
    return native.extension.AtomicView


@pytest.fixture
def view(view_type):
    return view_type(memoryview(bytearray(64)))


@pytest.mark.parametrize("bits", [32, 64])
def test_each_operation_returns_what_was_there(view, bits):
    def call(name, *arguments):
        return getattr(view, f"{name}{bits}")(8, *arguments)

    top = 1 << bits - 1
    call("store", top | 5)
    assert call("load") == top | 5
    assert call("exchange", 6) == top | 5
    assert call("fetch_or", top | 1) == 6
    assert call("fetch_and", top | 3) == top | 7
    assert call("load") == top | 3
    assert view.load64(0) == view.load64(16) == 0


@pytest.mark.parametrize(
    ("method", "offset"), [("load32", -4), ("load32", 62), ("load32", 64), ("load64", 4), ("load64", 60)]
)
def test_words_outside_or_across_a_boundary_are_refused(view, method, offset):
    with pytest.raises(ValueError, match="no aligned"):
        getattr(view, method)(offset)


def test_a_released_view_lets_its_memory_go(view_type):
    with GuestMemory.create(4096) as memory:
        page = memory.view(0, 4096)
        view = view_type(page)
        view.store32(0, 1)
        view.release()
        view.release()
        page.release()
        with pytest.raises(ValueError, match="released"):
            view.load32(0)


def test_a_full_fence_can_be_called():
    atomics.ctypes_full_fence()
    atomics.full_fence()
    atomics.no_fence()


def test_a_missing_library_is_said_in_one_line():
    with pytest.raises(atomics.AtomicsUnavailable, match="libatomic1"):
        atomics._Library("libno-such-thing.so").function("anything", None)
    with pytest.raises(atomics.AtomicsUnavailable):
        atomics._Library().function("no_such_function", ctypes.c_int)


def test_no_bit_is_lost_between_two_processes(view_type):
    # One sets the even bits and the other the odd ones of the same word, again and again; each clears only its own.
    rounds = 20000
    name = "atomics.CtypesAtomicView" if view_type is atomics.CtypesAtomicView else "native.extension.AtomicView"
    script = f"""
import sys
from vmbus import atomics, native
from vmbus.memory import GuestMemory
memory = GuestMemory.attach(int(sys.argv[1]), 4096)
view = {name}(memory.view(0, 64))
lost = 0
for i in range({rounds}):
    bit = 1 << (2 * (i % 32) + 1)
    view.fetch_or64(0, bit)
    lost += not view.fetch_and64(0, ~bit & (1 << 64) - 1) & bit
sys.exit(bool(lost))
"""
    memory = GuestMemory.create(4096)
    with subprocess.Popen([sys.executable, "-c", script, str(memory.fd)], pass_fds=[memory.fd]) as other:
        view = view_type(memory.view(0, 64))
        lost = 0
        for i in range(rounds):
            bit = 1 << 2 * (i % 32)
            view.fetch_or64(0, bit)
            lost += not view.fetch_and64(0, ~bit & (1 << 64) - 1) & bit
        assert other.wait(timeout=60) == 0
    assert lost == 0
