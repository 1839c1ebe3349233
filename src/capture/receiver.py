"""Receives a camera's video, again and again, and brings its pictures to the server as they are wanted."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from capture.outlet import ALIVE_SEC, Outlet
from capture.pace import Hurry, Pace
from capture.video import MJPEG, NO_PICTURE_SEC, Camera, CameraLost, JpegMaker, Packet
from capture.wire import CALLING, Call, Video, pack_reason
from ring import Buffer

#: The pause before the camera is called again doubles from the first to the last; after a video that ran for
#: `STEADY_SEC` it begins anew.
FIRST_PAUSE_SEC: Final = 0.5
LAST_PAUSE_SEC: Final = 30.0
STEADY_SEC: Final = 30.0
#: A camera of which no pictures are wanted is hung up on after this time: a page that is loaded again wants some soon.
NOBODY_WATCHES_SEC: Final = 10.0


class Receiver:
    """The thread that receives the video; orders come from another one."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._call: Call | None = None
        self._pace = Pace(0.0)
        self._ordered = threading.Event()
        self._hanging_up = False
        self._ending = False
        self._jpegs: JpegMaker | None = None

    # Orders

    def call(self, call: Call) -> None:
        """Call this camera."""
        self._call = call
        self._ordered.set()

    def want(self, rate_hz: float) -> None:
        """Bring so many pictures a second; infinity for all."""
        self._pace.rate_hz = rate_hz
        self._ordered.set()

    def hang_up(self) -> None:
        """End the video, and call again after the longest pause."""
        self._hanging_up = True

    def end(self) -> None:
        """Receive no more: `run` returns when the camera has sent something, or its deadline is over."""
        self._ending = True
        self._ordered.set()

    # The thread

    def run(self) -> None:
        """Receive until `end`.

        Raises:
            EOFError: the server has gone.
        """
        pause_sec = FIRST_PAUSE_SEC
        while not self._ending:
            if self._hanging_up:
                self._hanging_up = False
                self._wait(LAST_PAUSE_SEC)
            if self._call is None or not self._pace.rate_hz:
                self._wait(LAST_PAUSE_SEC, until=lambda: self._call is not None and self._pace.rate_hz > 0)
                continue
            began = time.monotonic()
            try:
                self._receive(self._call)
                pause_sec = FIRST_PAUSE_SEC
            except CameraLost as error:
                self._outlet.forget()
                self._outlet.say(pack_reason(str(error)))
                if time.monotonic() - began >= STEADY_SEC:
                    pause_sec = FIRST_PAUSE_SEC
                if error.login:  # cameras shut out who tries wrong logins often
                    pause_sec = LAST_PAUSE_SEC
                self._wait(pause_sec)
                pause_sec = min(2 * pause_sec, LAST_PAUSE_SEC)

    def _receive(self, call: Call) -> None:
        """Receive one video, until nobody wants it any more.

        Raises:
            CameraLost: it ended before, or did not begin.
        """
        self._outlet.say(bytes([CALLING]))
        with closing(Camera(call.url, call.max_pixels)) as camera:
            self._outlet.say(Video(camera.codec, camera.width, camera.height).pack())
            self._pace.start_again()
            hurry = Hurry()
            wanted_at = pictured_at = time.monotonic()
            for packet in camera.packets():
                now = time.monotonic()
                wanted_at = now if self._pace.rate_hz else wanted_at
                if self._ending or now - wanted_at > NOBODY_WATCHES_SEC:
                    break
                if self._hanging_up:
                    raise CameraLost("the server hung up")
                pictures = self._pictures(camera, packet, hurry, now)
                pictured_at = now if pictures else pictured_at
                if now - pictured_at > NO_PICTURE_SEC:
                    raise CameraLost(f"no picture can be made of what it sends, for {NO_PICTURE_SEC:g} s")
                for picture in pictures:
                    if self._pace.is_due(now):
                        self._outlet.put(picture())
                    else:
                        self._outlet.skip()
                self._outlet.stay_alive(now)
        self._outlet.forget()

    def _pictures(self, camera: Camera, packet: Packet, hurry: Hurry, now: float) -> list[Callable[[], Buffer]]:
        """What makes the pictures that this packet completes."""
        if camera.codec == MJPEG:
            return [lambda: packet.data]
        if hurry.leaves_out(packet.stamp_sec, packet.is_key, now):
            self._outlet.skip()
            return []
        if self._jpegs is None:
            self._jpegs = JpegMaker()
        return [partial(self._jpegs.make, frame) for frame in packet.decode(camera.decoder)]

    def _wait(self, seconds: float, until: Callable[[], bool] = bool) -> None:
        """Wait so long, until something is so, or until `end`."""
        end_at = time.monotonic() + seconds
        while not (self._ending or until()) and (left_sec := end_at - time.monotonic()) > 0:
            self._ordered.wait(min(left_sec, ALIVE_SEC))
            self._ordered.clear()
            self._outlet.stay_alive(time.monotonic())
