"""Worker processes, started before anything heavy is imported, so that all processes import at once."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


class _Workers(ProcessPoolExecutor):
    """A pool that also ends when a worker was killed as it ends."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; see `concurrent.futures.Executor.shutdown`."""
        processes = list((self._processes or {}).values())
        if any(process.exitcode is not None for process in processes):
            # It may have held the lock of the queue, for which the others would wait for ever.
            for process in processes:
                process.terminate()
        super().shutdown(wait, cancel_futures=cancel_futures)


def workers(count: int) -> ProcessPoolExecutor:
    """Start ``count`` processes that share the cores; torch's threads do not survive a fork, so they are spawned."""
    threads = max(1, (os.cpu_count() or 1) // count)
    pool = _Workers(count, mp_context=multiprocessing.get_context("spawn"), initializer=_wake, initargs=(threads,))
    for _ in range(count):
        pool.submit(os.getpid)  # a process starts with the first task that finds none idle
    return pool


def _wake(threads: int) -> None:
    import torch

    import recon.parallel  # noqa: F401 - what the tasks will need

    torch.set_num_threads(threads)
