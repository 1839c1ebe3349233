"""A worker process for plug-ins; the server starts it (runner.py) and feeds it through a ring."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import cv2

from processing import contract, folders
from processing.log import Log
from processing.watchdog import Watchdog
from processing.wire import DESCRIPTION, Report
from processing.worker import Worker
from ring import BrokenRing, RingReader

#: What is received goes before what is found in it.
NICENESS: Final = 10


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m processing", description="Runs plug-ins for an ImageServer.")
    parser.add_argument("--memory", type=int, default=0, metavar="BYTES", help="most memory it may take; 0: no limit")
    parser.add_argument("plugins", nargs="+", metavar="MODULE:NAME", help="a plug-in")
    parser.add_argument("ring", help="how to reach the server")
    options = parser.parse_args(arguments)
    try:
        reader = RingReader.attach(options.ring)
    except BrokenRing:
        return 1
    os.nice(NICENESS)
    log = Log()
    log.take_what_is_printed()
    cv2.setNumThreads(1)  # there is a worker for each core; a plug-in may say otherwise for its own
    try:
        folders.put_users_first()
        plugins = contract.load(options.plugins, log)
        contract.set_up(plugins, log)
    except contract.Unusable as error:
        reader.failed(str(error))
        return 2
    try:
        _work(reader, plugins, log, options.memory)
    except EOFError:
        pass
    return 0


def _work(reader: RingReader, plugins: Sequence[contract.Plugin], log: Log, memory_bytes: int) -> NoReturn:
    watchdog = Watchdog(memory_bytes, log)
    watchdog.start()
    description = json.dumps([plugin.description._asdict() for plugin in plugins])
    reader.answer(Report(DESCRIPTION, payload=description.encode()).pack())
    reader.ready()
    Worker(reader, plugins, watchdog, log).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
