"""Giving memory back to the system, and not taking too much of it."""

import ctypes
from collections.abc import Callable
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def give_back() -> None:
    """Return what has been freed, and lies between what has not, to the system; takes a few milliseconds.

    glibc returns only what is free at the end of its heap. After a crowd of clients that is nothing: 1,100 with 64 KiB
    each left 85 MB behind. Where the C library is another one, nothing happens.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def share_one_heap() -> None:
    """Let all threads have their memory from one heap of the C library's; called before there are any.

    With glibc each thread has its own, and there keeps the 19 MiB that it last hashed a password in: 190 MB in all.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (OSError, TypeError, AttributeError):
        pass  # another C library


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None


_malloc_trim: Final = _find_malloc_trim()
