"""The real server, with a consumer that says what has come and answers some of it; test_cameras.py runs it.

    camera_server.py FOUND SEQ…

Of each stream's frames with these numbers two plug-ins have results: `finder` says FOUND, which is JSON, and `painter`
gives the picture back as it came.

    ← {"url": …}                                        it serves
    ← {"stream": name, "seq": n, "sha256": digest}      a frame
    ← {"stream": name, "ended": true}
    → drop                                              ends all sessions, so that the clients come back

It ends when its standard input does.
"""

import green

green.make_green()  # before anything else imports sockets or time

import hashlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

from app import App  # noqa: E402
from frames import Frame  # noqa: E402
from hub import Ended, Policy, Result, Stream  # noqa: E402
from settings import Settings  # noqa: E402


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def answer(stream: Stream, frame: Frame, found: Any) -> None:
    for plugin, value in (("finder", found), ("painter", bytes(frame.image))):
        stream.answer(Result(stream, frame.seq, plugin, value, frame.reply_to, frame.received_at, time.time()))


def say_what_comes(app: App, found: Any, answered: set[int]) -> None:
    subscription = app.hub.subscribe("test", policy=Policy.QUEUE, max_frames=1000, max_bytes=1 << 30)
    ready = green.Signal()
    subscription.ready = ready.set
    while ready.wait():
        while (item := subscription.take()) is not None:
            if isinstance(item, Ended):
                say(stream=item.stream.name, ended=True)
            else:
                say(stream=item.stream.name, seq=item.seq, sha256=hashlib.sha256(item.image).hexdigest())
                if item.seq in answered:
                    answer(item.stream, item, found)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for library in ("engineio.server", "socketio.server"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Clients that wait for the former's ack alone send far more than 60 frames a second here.
    app = App(Settings(ip="127.0.0.1", port=0, auth=True, rate=0))
    found, *seqs = map(json.loads, sys.argv[1:])
    green.spawn(say_what_comes, app, found, set(seqs))
    say(url=app.start())

    # A green process reads while its loop goes on.
    while commands := os.read(sys.stdin.fileno(), 4096):
        for _ in commands.splitlines():
            for sid, _ in list(app.engine.manager.get_participants("/", None)):
                app.engine.drop(sid)
    app.stop()


if __name__ == "__main__":
    main()
