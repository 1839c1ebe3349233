#!/usr/bin/env python3
"""The entry point: `python3 ImageServer.py [-i IP] [-p PORT] [-a] [-d] …`; --help lists every option."""

import os
import sys

import stopping


def have_standard_files() -> None:
    """Put /dev/null where the parent has closed standard input, output or error: a client's socket would get that
    number, and whatever a library writes there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


if __name__ == "__main__":
    stopping.leave_when_told()  # before the imports below, which take a second
    have_standard_files()

import green  # noqa: E402
import memory  # noqa: E402

green.make_green()  # before anything else imports sockets or time
memory.share_one_heap()

from app import main  # noqa: E402

if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Not sys.exit: it would wait for the threads, which hash passwords or wait for a database that does not answer, and
    # for all jobs that wait for them.
    os._exit(status)
