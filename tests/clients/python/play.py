"""What the plays have in common."""

import json
import threading

import engineio
import socketio

TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}
#: Longer than anything takes that goes well.
DEADLINE_SEC = 20


class _Engine(engineio.Client):
    def _trigger_event(self, event, *args, **options):
        options.pop("run_async", None)
        return super()._trigger_event(event, *args, **options)


class InOrderClient(socketio.Client):
    """Handles what comes one after the other; the library starts a thread for each message, and there a picture may
    overtake the text before it, which breaks the connection's decoder."""

    def _engineio_client_class(self):
        return _Engine


_printing = threading.Lock()


def say(event, **what):
    with _printing:
        print(json.dumps({"event": event, **what}), flush=True)
