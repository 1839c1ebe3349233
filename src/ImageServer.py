#!/usr/bin/env python3
"""The entry point: `python3 ImageServer.py [-i IP] [-p PORT] [-a] [-d] …`; --help lists every option."""

import green

green.make_green()  # before anything else imports sockets or time

import sys  # noqa: E402

from app import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
