"""A camera's video over RTSP (RFC 2326), by PyAV: calls the camera, and makes JPEG images of what it sends.

Rule 1. The camera is a stranger: what it makes this process wait for has a deadline, what it makes it allocate has an
        end (see `MEMORY_BYTES`), and it cannot send it elsewhere: of ffmpeg's protocols only those are open that the
        connection itself takes.
Rule 2. The address holds a password. ffmpeg puts it into its errors and into its log, so that neither is shown: what
        goes wrong is told in words of our own and in the names of errors.
"""

import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import av
import av.error
import av.logging
import certifi
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ring import Buffer

#: To be connected and told what comes, each. A camera that wakes up takes some seconds.
OPEN_SEC: Final = 10.0
#: A camera that sends nothing for so long has gone, or stands still.
SILENCE_SEC: Final = 10.0
#: A video of which no picture can be made in so long is none. Cameras that save send a key picture every 10 s.
NO_PICTURE_SEC: Final = 20.0
#: What ffmpeg may look at, in microseconds of video, to find out what comes. Most cameras say it before; the others
#: within a key picture.
ANALYZE_US: Final = 2_000_000
#: What this process may allocate: libraries take 0.6 GB of addresses, and the 17 pictures that a decoder may hold of
#: the largest H.264 and H.265 video there is, of 36 million pixels, 1.8 GB where they have 10 bits.
MEMORY_BYTES: Final = 3 << 30

#: What cameras send, and no more of what ffmpeg can decode.
CODECS: Final = ("h264", "hevc", "mjpeg", "mpeg4", "h263", "mpeg2video", "vp8", "vp9", "libdav1d", "av1")
#: Whole JPEG images already.
MJPEG: Final = "mjpeg"
#: Of the JPEGs that are made of other videos. The eye misses nothing, and 90 takes a third more bytes.
JPEG_QUALITY: Final = 85


class CameraLost(Exception):
    """The camera cannot be reached, or its video has ended; the message holds no secret.

    Attributes:
        login: whether it is the login that the camera does not take.
    """

    def __init__(self, message: str, *, login: bool = False) -> None:
        super().__init__(message)
        self.login = login


class Packet:
    """A coded picture, or a part of one.

    Attributes:
        data: its bytes.
        stamp_sec: when it is to be shown; None if the camera does not say.
        is_key: whether it can be decoded without those before.
    """

    __slots__ = ("_packet", "data", "is_key", "stamp_sec")

    def __init__(self, packet: "av.Packet[VideoStream]") -> None:
        self._packet = packet
        self.data: Buffer = memoryview(packet)
        stamp = packet.pts if packet.pts is not None else packet.dts
        self.stamp_sec = None if stamp is None else float(stamp * packet.time_base)
        self.is_key = packet.is_keyframe

    def decode(self, decoder: VideoCodecContext) -> list[VideoFrame]:
        """The pictures that this one completes; none where it is damaged."""
        try:
            return [frame for frame in decoder.decode(self._packet) if not frame.is_corrupt]
        except av.error.MemoryError:
            raise CameraLost(f"its pictures take more than {MEMORY_BYTES >> 20} MiB") from None
        except av.FFmpegError:
            return []


class Camera:
    """A camera that sends video, connected.

    Args:
        url: rtsp or rtsps, with the login if there is one.
        max_pixels: of a picture that is decoded.

    Raises:
        CameraLost: it is not there, or does not send what can be used.

    Attributes:
        codec: by ffmpeg's name.
        width, height: 0 where only the first picture will say so.
    """

    def __init__(self, url: str, max_pixels: int) -> None:
        _look_up(url)
        self._container = _open(url, max_pixels)
        try:
            self._stream = self._container.streams.video[0]
            self.decoder = self._stream.codec_context
        except (IndexError, AttributeError):
            self.close()
            raise CameraLost("it sends no video") from None
        self.codec, self.width, self.height = self.decoder.name, self.decoder.width, self.decoder.height
        if self.codec not in CODECS:
            self.close()
            raise CameraLost(f"its video is {self.codec}, expected one of {', '.join(CODECS)}")
        if self.width * self.height > max_pixels:
            self.close()
            raise CameraLost(f"its video is {self.width} x {self.height} pixels, at most {max_pixels} are taken")
        self.decoder.thread_count = 1  # there is a process for each camera
        self.decoder.options = {"max_pixels": str(max_pixels)}

    def packets(self) -> Iterator[Packet]:
        """What the camera sends, as long as it does.

        Raises:
            CameraLost: it has ended; so it does in any case.
        """
        began = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                if time.monotonic() - began >= SILENCE_SEC:
                    break  # what ffmpeg still had, when it had waited in vain; it would wait once more
                if packet.size:
                    yield Packet(packet)
                began = time.monotonic()
        except av.FFmpegError as error:
            raise _lost(error, time.monotonic() - began, SILENCE_SEC) from None
        if time.monotonic() - began >= SILENCE_SEC:
            raise CameraLost(_silent(SILENCE_SEC))
        raise CameraLost("it ended its video")

    def close(self) -> None:
        """Say goodbye to the camera."""
        self._container.close()


class JpegMaker:
    """Makes JPEG images of decoded pictures."""

    def __init__(self) -> None:
        # Only now: a camera that sends JPEG images needs neither, and they take more memory than all else.
        import cv2

        cv2.setNumThreads(1)
        self._cv2 = cv2
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]

    def make(self, frame: VideoFrame) -> Buffer:
        # ffmpeg's own encoder of JPEG takes three times as long.
        pixels = frame.to_ndarray(format="bgr24")
        _, jpeg = self._cv2.imencode(".jpg", pixels, self._quality)
        return jpeg.data.cast("B")


def bound_memory() -> None:
    """From now on, this process allocates no more than `MEMORY_BYTES`, as far as the system can see to that."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _look_up(url: str) -> None:
    """ffmpeg says of a host that does not exist that there was an input or output error.

    Raises:
        CameraLost: there is no such host.
    """
    parts = urlsplit(url)
    try:
        socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CameraLost(f"its host is not known: {error.strerror}") from None


def _open(url: str, max_pixels: int) -> InputContainer:
    connecting = {
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "protocol_whitelist": "tcp,tls",  # not rtsp: a camera that redirects could send us anywhere
        "codec_whitelist": ",".join(CODECS),
        "analyzeduration": str(ANALYZE_US),
        "fpsprobesize": "0",  # how many pictures come a second is seen when they do
        "user_agent": "ImageServer",
    }
    if url.startswith("rtsps:"):
        connecting |= {"tls_verify": "1", "ca_file": ssl.get_default_verify_paths().cafile or certifi.where()}
    decoding = {"max_pixels": str(max_pixels)}
    began = time.monotonic()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            return av.open(
                url, format="rtsp", options=decoding, container_options=connecting, timeout=(OPEN_SEC, SILENCE_SEC)
            )
    except av.FFmpegError as error:
        # What ffmpeg logs is looked at, and not shown: it holds what the camera says.
        if any("not on whitelist" in message for _, _, message in said):
            raise CameraLost("it redirects to another address, which is not called") from None
        if url.startswith("rtsps:") and type(error) is av.error.OSError:
            raise CameraLost("no TLS connection to it, or its certificate is not trusted") from None
        raise _lost(error, time.monotonic() - began, OPEN_SEC) from None
    finally:
        av.logging.set_level(None)


def _silent(seconds: float) -> str:
    return f"nothing came from it for {seconds:g} s"


def _lost(error: av.FFmpegError, waited_sec: float, deadline_sec: float) -> CameraLost:
    """What is told of an error of ffmpeg."""
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return CameraLost("it does not take the login, or wants one (401)", login=True)
    if isinstance(error, av.error.HTTPClientError | av.error.HTTPServerError):
        return CameraLost(f"it refuses: {(error.strerror or '').removeprefix('Server returned ')}")
    if waited_sec >= deadline_sec or isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return CameraLost(_silent(deadline_sec))
    if isinstance(error, av.error.MemoryError):
        return CameraLost(f"what it sends takes more than {MEMORY_BYTES >> 20} MiB")
    if isinstance(error, av.error.InvalidDataError | av.error.EOFError):
        return CameraLost("it closed the connection, or does not speak RTSP")
    return CameraLost(error.strerror or "it cannot be reached")
