"""The camera of tests/clients/test_real_clients.py, on python-socketio 4 or 5: their client's interface is the same."""

import json
import queue
import sys
import threading
import time
from pathlib import Path

import socketio

TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}
BURST = 20
IMAGES_AFTER_RETURN = 10
#: Longer than anything takes that goes well.
DEADLINE_SEC = 30

_printing = threading.Lock()


def say(event, **what):
    with _printing:
        print(json.dumps({"event": event, **what}), flush=True)


def be_refused(url, transport, user, password):
    client = socketio.Client(reconnection=False)
    callbacks, gone = [], threading.Event()
    refused_at = 0.0

    @client.on("onAuthentication")
    def on_authentication(*args):
        nonlocal refused_at
        callbacks.append(args)
        refused_at = time.monotonic()

    client.on("disconnect", lambda *_: gone.set())
    client.connect(url, transports=TRANSPORTS[transport])
    client.emit("authenticate", (user, password + "x", "onAuthentication"))
    if gone.wait(DEADLINE_SEC):
        say("wrong login", callbacks=callbacks, disconnected_after_sec=time.monotonic() - refused_at)
    # Version 4 keeps the transport, and with it the process, until the server ends it.
    client.disconnect()


def stream(url, transport, folder, user, password, refused):
    images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    client = socketio.Client(reconnection_attempts=10, reconnection_delay=0.2, randomization_factor=0)
    connected, dropped, answered = queue.Queue(), threading.Event(), queue.Queue()
    callbacks = []

    @client.on("onAuthentication")
    def on_authentication(*args):
        callbacks.append(args)
        answered.put(args)

    client.on("connect", lambda: connected.put(None))
    client.on("disconnect", lambda *_: dropped.set())
    client.on("serverError", lambda code, message: say("serverError", code=code, message=message))
    client.on("setRate", lambda hz: say("setRate", hz=hz))

    def send_in_turn(images):
        return [client.call("receiveImage", image, timeout=DEADLINE_SEC) for image in images]

    def log_in(event):
        client.emit("authenticate", (user, password, "onAuthentication"))
        answered.get(timeout=DEADLINE_SEC)
        say(event, callbacks=callbacks)

    client.connect(url, transports=TRANSPORTS[transport])
    connected.get(timeout=DEADLINE_SEC)
    say("before login", answer=send_in_turn(images[:1])[0])
    log_in("login")
    say("streamed", answers=send_in_turn(images), transport=client.transport())

    burst = queue.Queue()
    for image in images[:BURST]:
        client.emit("receiveImage", image, callback=burst.put)
    say("burst", answers=[burst.get(timeout=DEADLINE_SEC) for _ in range(BURST)])

    refused.join()
    say("ready to be dropped")
    if not dropped.wait(DEADLINE_SEC):
        sys.exit("was not dropped")
    connected.get(timeout=DEADLINE_SEC)
    log_in("login after return")
    say("streamed after return", answers=send_in_turn(images[:IMAGES_AFTER_RETURN]))
    client.disconnect()
    # The goodbye is sent by threads of the client.
    client.wait()


def main():
    url, transport, folder, user, password = sys.argv[1:]
    refused = threading.Thread(target=be_refused, args=(url, transport, user, password))
    refused.start()
    stream(url, transport, folder, user, password, refused)
    say("done")


if __name__ == "__main__":
    main()
