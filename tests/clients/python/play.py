"""What the plays have in common."""

import json
import threading

TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}
#: Longer than anything takes that goes well.
DEADLINE_SEC = 20

_printing = threading.Lock()


def say(event, **what):
    with _printing:
        print(json.dumps({"event": event, **what}), flush=True)
