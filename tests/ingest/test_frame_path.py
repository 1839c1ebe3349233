"""Between the end of reading and the end of publishing no greenlet switches, no lock is taken and nothing is encoded.

The real server, watched from inside while a real client sends: every switch, and every call into C, is seen.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from running import SRC

WATCHED_SERVER = """
import sys

sys.path[:0] = ["src", "tests"]
import green

green.make_green()
import json, threading
import greenlet
from eventlet.patcher import original
import hub
from app import App
from engine.server import Server
from settings import Settings

seen = {"frames": 0, "watched": 0, "switches": 0, "locks": [], "encoders": []}
watching = False


def on_switch(event, pair):
    if watching:
        seen["switches"] += 1


def on_call(frame, event, what):
    if event == "c_call":
        if type(getattr(what, "__self__", None)).__name__ in ("lock", "RLock"):
            seen["locks"].append(what.__name__)
        if what.__name__ in ("encode", "dumps", "b64encode", "c_make_encoder"):
            seen["encoders"].append(what.__name__)


def watch(inner, *arguments):
    global watching
    watching = True
    sys.setprofile(on_call)
    try:
        inner(*arguments)
    finally:
        sys.setprofile(None)
        watching = False


def receive_image(self, *arguments, inner=Server._receive_image):
    watch(inner, self, *arguments)


def publish(self, *arguments, inner=hub.Stream.publish):
    global watching
    refusal = inner(self, *arguments)
    seen["frames"] += refusal is None
    seen["watched"] += watching
    sys.setprofile(None)  # published: what follows, the ack, may be encoded
    watching = False
    return refusal


Server._receive_image = receive_image
hub.Stream.publish = publish
greenlet.settrace(on_switch)

app = App(Settings(ip="127.0.0.1", port=0, rate=0.0))
subscriptions = [app.hub.subscribe("one"), app.hub.subscribe("two", policy=hub.Policy.QUEUE, max_frames=3)]
url = app.start()
print(url, flush=True)
while seen["frames"] < 50:
    green.sleep(0.02)
print(json.dumps(seen), flush=True)
app.stop()
"""

CLIENT = """
import sys

sys.path[:0] = ["src", "tests"]
from phones import Phone
from pictures import picture

with Phone(sys.argv[1], [sys.argv[2]]) as phone:
    phone.log_in()
    for _ in range(50):
        phone.send(picture())
"""


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_frame_is_published_without_a_switch_a_lock_or_an_encoder(transport: str) -> None:
    root: Path = SRC.parent
    server = subprocess.Popen(
        [sys.executable, "-c", WATCHED_SERVER], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        subprocess.run([sys.executable, "-c", CLIENT, url, transport], cwd=root, check=True, timeout=60)
        seen = json.loads(server.stdout.readline())
    finally:
        server.kill()
        _, errors = server.communicate()
    assert seen == {"frames": 50, "watched": 50, "switches": 0, "locks": [], "encoders": []}, errors
