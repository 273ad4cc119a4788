"""Work of threads, in order, a few pieces ahead of whoever takes it."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")


def map_ahead(function: Callable[[X], Y], items: Iterable[X], num_threads: int) -> Iterator[Y]:
    """Yields function(x) for each x in order; no more results wait than twice the threads."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        pending: collections.deque[concurrent.futures.Future[Y]] = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def available_threads() -> int:
    """Returns the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
