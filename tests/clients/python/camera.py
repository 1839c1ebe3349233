"""The camera of tests/clients/test_cameras.py, on python-socketio 4 or 5: their client's interface is the same."""

import hashlib
import queue
import sys
import threading
import time
from pathlib import Path

import socketio
from play import DEADLINE_SEC, TRANSPORTS, InOrderClient, say

BURST = 20
IMAGES_AFTER_RETURN = 10
RESULT_EVENT = "onResult"


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


def hear_results(client):
    """All results, in the order in which they come; of a picture its digest."""
    results = []

    def hear(name):
        @client.on(name)
        def on_result(result, about):
            if isinstance(result, bytes):
                result = {"sha256": hashlib.sha256(result).hexdigest()}
            results.append({"name": name, "result": result, "about": about})

    hear("result")
    hear(RESULT_EVENT)
    return results


def stream(url, transport, folder, user, password):
    refused = threading.Thread(target=be_refused, args=(url, transport, user, password))
    refused.start()
    images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    client = InOrderClient(reconnection_attempts=10, reconnection_delay=0.2, randomization_factor=0)
    connected, answered, errors, dropped = queue.Queue(), queue.Queue(), queue.Queue(), threading.Event()
    callbacks, results = [], hear_results(client)

    @client.on("onAuthentication")
    def on_authentication(*args):
        callbacks.append(args)
        answered.put(args)

    client.on("connect", lambda: connected.put(None))
    client.on("disconnect", lambda *_: dropped.set())
    client.on("serverError", lambda code, message: errors.put(code))

    def send_in_turn(images, *event):
        return [client.call("receiveImage", (image, *event), timeout=DEADLINE_SEC) for image in images]

    def log_in(event):
        client.emit("authenticate", (user, password, "onAuthentication"))
        answered.get(timeout=DEADLINE_SEC)
        say(event, callbacks=callbacks)

    client.connect(url, transports=TRANSPORTS[transport])
    connected.get(timeout=DEADLINE_SEC)
    say("before login", answer=send_in_turn(images[:1])[0])
    say("serverError", code=errors.get(timeout=DEADLINE_SEC))
    log_in("login")
    half = len(images) // 2
    answers = send_in_turn(images[:half]) + send_in_turn(images[half:], RESULT_EVENT)
    say("streamed", answers=answers, transport=client.transport())

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
    say("results", results=results)
    # The last image's request may yet wait for its answer, and the thread that writes would end before the goodbye.
    client.eio.queue.join()
    client.disconnect()
    # The goodbye is sent by threads of the client.
    client.wait()
    say("done")


if __name__ == "__main__":
    stream(*sys.argv[1:])
