"""A loop that ends while others still want to wake it up."""

from __future__ import annotations

import os
import threading

from vmbus.loop import Loop


def test_a_loop_that_is_closed_writes_to_nobody_elses_descriptor() -> None:
    """The number of its descriptor is given to the next file that is opened."""
    for _ in range(200):
        loop = Loop()
        stop = threading.Event()

        def wake(loop: Loop = loop, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                loop.call_soon_threadsafe(int)

        waker = threading.Thread(target=wake)
        waker.start()
        loop.run_once(0.0)
        loop.close()
        others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
        stop.set()
        waker.join()
        for other in others:
            try:
                assert os.eventfd_read(other) == 0
            except BlockingIOError:
                pass
            os.close(other)


def test_what_is_called_after_the_end_is_harmless() -> None:
    loop = Loop()
    loop.close()
    loop.call_soon_threadsafe(int)
    loop.stop()
    loop.close()
