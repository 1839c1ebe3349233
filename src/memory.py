"""Giving memory back to the system, and not taking too much of it."""

import ctypes
from collections.abc import Callable
from typing import Final

#: malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: Of what has been freed at the end of the heap so much is kept for what comes next: some uncompressed images.
KEPT_BYTES: Final = 8 * 1024 * 1024
#: Up to this size a piece of memory comes from the heap: an uncompressed image of 1280 x 960 pixels does.
LARGEST_KEPT_BYTES: Final = 4 * 1024 * 1024


def give_back() -> None:
    """Return what has been freed, and lies between what has not, to the system; takes a few milliseconds.

    glibc returns only what is free at the end of its heap. After a crowd of clients that is nothing: 1,100 with 64 KiB
    each left 85 MB behind. Where the C library is another one, nothing happens.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def keep_for_images() -> None:
    """Let uncompressed images have the memory of those before them.

    glibc would give it back to the system with each image, and get it anew for the next one, page by page: that takes
    as long as inflating one of 640 x 480 pixels.
    """
    _tune(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    _tune(_M_TRIM_THRESHOLD, KEPT_BYTES)


def share_one_heap() -> None:
    """Let all threads have their memory from one heap of the C library's; called before there are any.

    With glibc each thread has its own, and there keeps the 19 MiB that it last hashed a password in: 190 MB in all.
    """
    _tune(_M_ARENA_MAX, 1)


def _tune(parameter: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(parameter, value)
    except (OSError, TypeError, AttributeError):
        pass  # another C library


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None


_malloc_trim: Final = _find_malloc_trim()
