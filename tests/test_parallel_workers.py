"""Worker processes end, whatever happened to one of them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from recon.workers import workers


@pytest.mark.parametrize("killed", [0, 1])
def test_the_pool_ends_when_a_worker_was_killed_at_the_last_moment(killed: int) -> None:
    """Of two idle workers one waits for a task and holds the lock that the other waits for."""
    pool, taken = workers(2), 2.0
    while taken > 1.5:  # until both are awake
        start = time.monotonic()
        for future in [pool.submit(time.sleep, 1) for _ in range(2)]:
            future.result()
        taken = time.monotonic() - start
    os.kill(list(pool._processes)[killed], signal.SIGKILL)
    time.sleep(0.05)
    ending = threading.Thread(target=pool.shutdown, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
