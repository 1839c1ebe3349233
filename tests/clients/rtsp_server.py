"""An RTSP camera made of GStreamer's own server; run by the system's Python, which has its bindings.

Says `listening on PORT` when it serves, and `connected`, `goodbye` and `closed` of its clients. Its addresses:

    /h264 /h265 /jpeg   640 x 480 pixels, 25 Hz
    /large              1920 x 1080 in H.264
    /odd                321 x 243 in H.264, with colours for every pixel
    /raw                640 x 480, not encoded
    /sound              no picture
    /numbered           H.264, 25 Hz: each picture shows its number as 16 black or white bars, the highest bit first;
                        `made NUMBER TIME` is said when it is made
"""

import argparse
import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

HZ = 25
WIDTH, HEIGHT, BARS = 640, 480, 16

SOURCE = f"videotestsrc is-live=true pattern=ball ! video/x-raw,framerate={HZ}/1"
H264 = f"x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={HZ} ! rtph264pay name=pay0"
H265 = f"x265enc tune=zerolatency speed-preset=ultrafast key-int-max={HZ} ! rtph265pay name=pay0"
PIPELINES = {
    "/h264": f"{SOURCE},format=I420,width=640,height=480 ! {H264}",
    "/h265": f"{SOURCE},format=I420,width=640,height=480 ! {H265}",
    "/jpeg": f"{SOURCE},format=I420,width=640,height=480 ! jpegenc quality=80 ! rtpjpegpay name=pay0",
    "/large": f"{SOURCE},format=I420,width=1920,height=1080 ! {H264}",
    "/odd": f"{SOURCE},format=Y444,width=321,height=243 ! {H264}",
    "/raw": f"{SOURCE},format=UYVY,width=640,height=480 ! rtpvrawpay name=pay0",
    "/sound": "audiotestsrc is-live=true ! audioconvert ! rtpL16pay name=pay0",
    "/numbered": f"appsrc name=numbers format=time is-live=true ! {H264}",
}
#: Each from another package.
ELEMENTS = ("videotestsrc", "rtph264pay", "x265enc", "x264enc")


def numbered_picture(number: int) -> bytes:
    """In I420."""
    row = b"".join(bytes([235 if number >> bit & 1 else 16]) * (WIDTH // BARS) for bit in reversed(range(BARS)))
    return row * HEIGHT + bytes([128]) * (WIDTH * HEIGHT // 2)


def feed_numbers(_factory: Any, media: Any) -> None:
    source = media.get_element().get_child_by_name("numbers")
    caps = f"video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={HZ}/1"
    source.set_property("caps", Gst.Caps.from_string(caps))
    number = 0

    def push() -> bool:
        nonlocal number
        buffer = Gst.Buffer.new_wrapped(numbered_picture(number))
        buffer.pts, buffer.duration = number * Gst.SECOND // HZ, Gst.SECOND // HZ
        print("made", number, time.time(), flush=True)
        number += 1
        return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

    GLib.timeout_add(1000 // HZ, push)


def tell_of_client(_server: Any, client: Any) -> None:
    print("connected", flush=True)
    client.connect("closed", lambda _client: print("closed", flush=True))
    client.connect("teardown-request", lambda *_: print("goodbye", flush=True))


def guarded(login: str, digest: bool, tls: list[str]) -> Any:
    auth = GstRtspServer.RTSPAuth()
    if tls:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*tls))
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    user, _, password = login.partition(":")
    if digest:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    elif login:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_default_token(token)
    return auth


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0", help="instead of a free one")
    parser.add_argument("--login", default="", metavar="NAME:PASSWORD", help="nobody else may watch")
    parser.add_argument("--digest", action="store_true", help="digests of passwords are taken, and nothing else")
    parser.add_argument("--tls", nargs=2, default=[], metavar=("CERTIFICATE", "KEY"), help="rtsps")
    parser.add_argument("--check", action="store_true", help="only see whether all is there that it takes")
    options = parser.parse_args()
    Gst.init(None)
    if options.check:
        sys.exit(not all(map(Gst.ElementFactory.find, ELEMENTS)))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    if options.login or options.tls:
        server.set_auth(guarded(options.login, options.digest, options.tls))
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", permission, True)
    for path, pipeline in PIPELINES.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {pipeline} )")
        factory.set_shared(True)
        if options.login or options.tls:
            factory.set_permissions(permissions)
        if path == "/numbered":
            factory.connect("media-configure", feed_numbers)
        server.get_mount_points().add_factory(path, factory)
    server.connect("client-connected", tell_of_client)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {options.port}")
    print("listening on", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
