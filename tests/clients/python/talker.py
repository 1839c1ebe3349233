"""The talker of tests/clients/test_talkers.py, on python-socketio 4 or 5."""

import inspect
import queue
import sys

import socketio
from play import DEADLINE_SEC, TRANSPORTS, say

BYTES = bytes(range(256))


def shown(value):
    """Bytes as something that JSON can carry."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    if isinstance(value, dict):
        return {key: shown(inner) for key, inner in value.items()}
    return value


def hear(client, event, namespace="/"):
    """A queue of the arguments of all events of this name."""
    heard = queue.Queue()
    client.on(event, lambda *args: heard.put(args), namespace=namespace)
    return heard


def open_in(namespace, url, transport, **how):
    """A client that joins a namespace; version 5 raises when it may not."""
    client = socketio.Client(reconnection=False)
    token, denied = hear(client, "token", namespace), hear(client, "connect_error", namespace)
    try:
        client.connect(url, namespaces=[namespace], transports=TRANSPORTS[transport], **how)
    except socketio.exceptions.ConnectionError:
        pass
    return client, token, denied


def talk(url, transport, text):
    client, other = socketio.Client(), socketio.Client()
    events = ("welcome", "you said", "told")
    heard = {each: {event: hear(each, event) for event in events} for each in (client, other)}
    client.on("ask", lambda data: (data[::-1], text))

    def take(event, each=client):
        return shown(heard[each][event].get(timeout=DEADLINE_SEC))

    client.connect(url, transports=TRANSPORTS[transport])
    other.connect(url, transports=["websocket" if transport == "polling" else "polling"])
    say("welcome", args=take("welcome"))
    take("welcome", other)

    echoed = (text, {"number": 1.5, "bytes": BYTES, "list": [b"\xff", None, True]})
    say("echo", args=shown(client.call("echo", echoed, timeout=DEADLINE_SEC)))
    client.emit("ask me")
    say("you said", args=take("you said"))
    client.emit("tell everybody", BYTES)
    say("told", args=take("told") + take("told", other))

    # Version 4 cannot say a token: what it puts behind the namespace becomes part of the name that it listens to.
    how = {"auth": {"token": "abc"}} if "auth" in inspect.signature(client.connect).parameters else {}
    cam, token, _ = open_in("/cam", url, transport, **how)
    say("token", args=token.get(timeout=DEADLINE_SEC))
    deny, _, denied = open_in("/deny", url, transport)
    (why,) = denied.get(timeout=DEADLINE_SEC)
    say("denied", code=why.get("data", why)["code"])

    for each in (client, other, cam, deny):
        each.disconnect()
    say("done")


if __name__ == "__main__":
    talk(*sys.argv[1:])
