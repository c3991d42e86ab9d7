"""Many runs at once, bounded in number."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """`[function(item) for item in items]` with at most `workers` at a time, in threads.

    The first error is raised, and what has not begun by then never does.
    """
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sandbox") as executor:
        futures = [executor.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
