"""Worker processes end, whatever happened to one of them."""

from __future__ import annotations

import os
import signal
import threading
import time

from recon.workers import workers


def test_the_pool_ends_when_a_worker_was_killed_at_the_last_moment() -> None:
    pool = workers(2)
    assert len({pool.submit(os.getpid).result() for _ in range(2)}) >= 1
    os.kill(next(iter(pool._processes)), signal.SIGKILL)
    time.sleep(0.05)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    ending.join(60)
    assert not ending.is_alive()
