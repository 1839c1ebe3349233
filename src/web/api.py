"""The API in its first form: tokens, streams, their results and wanted rate, health and metrics. JSON; errors are
{error: {code, message}}; times are UTC."""

import base64
import logging
import math
import time
from datetime import UTC, datetime
from typing import Any, Final

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from auth.access import Action, Viewer, may
from auth.accounts import UsersUnavailable
from auth.login import Authenticator, LoginRefused, LoginUnavailable, TooManyGuesses
from auth.sessions import Sessions
from hub import FrameHub, Result, Stream
from metrics import CONTENT_TYPE, Metrics
from rate import OncePerSecond
from web.registration import Registrar, make_registration

logger = logging.getLogger(__name__)

#: A request's body is a name and a password; nothing here takes files yet.
MAX_BODY_BYTES: Final = 16 * 1024


class ApiError(Exception):
    """An answer that is an error: HTTP status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


def make_site(
    hub: FrameHub,
    authenticator: Authenticator,
    sessions: Sessions,
    metrics: Metrics,
    registrar: Registrar,
    tokens_needed: bool,
) -> Flask:
    """The WSGI application for everything that is not Socket.IO.

    Args:
        registrar: who is told of cameras that register themselves.
        tokens_needed: with `-a`, who shows no token sees nothing; without, everybody sees everything.
    """
    site = Flask("imageserver", static_folder=None)
    site.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    site.json.sort_keys = False  # type: ignore[attr-defined]
    site.register_blueprint(make_registration(registrar))
    said = OncePerSecond()

    def viewer() -> Viewer:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        address = request.remote_addr or ""
        if scheme.lower() == "bearer":
            found = sessions.viewer_of(token.strip(), address)
        else:
            found = None if tokens_needed else Viewer.anybody(address)
        if found is None:
            raise ApiError(
                401, "not_logged_in", "a valid token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
            )
        return found

    @site.get("/healthz")
    @site.get("/readyz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @site.get("/metrics")
    def show_metrics() -> Response:
        viewer()
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    @site.post("/api/v1/token")
    def make_token() -> dict[str, str]:
        body = _json_body()
        if not isinstance(body, dict):
            raise ApiError(400, "bad_arguments", "expected a JSON object {username, password}")
        try:
            account = authenticator.login(body.get("username"), body.get("password"), request.remote_addr or "")
        except TooManyGuesses as error:
            raise ApiError(429, "too_many_guesses", str(error), {"Retry-After": str(error.retry_after_sec)}) from None
        except LoginUnavailable as error:
            raise ApiError(503, "unavailable", str(error)) from None
        except LoginRefused:
            raise ApiError(401, "not_logged_in", "the name or the password is wrong") from None
        token, expires = sessions.issue(account)
        return {"token": token, "expires": _iso(expires)}

    @site.get("/api/v1/streams")
    def list_streams() -> dict[str, Any]:
        asking = viewer()
        now = time.time()
        return {"items": [_describe(s, now) for s in hub.listed_streams() if may(asking, Action.SEE, s.user, s.name)]}

    def stream_for(asking: Viewer, name: str) -> Stream:
        """The live stream of that name, else the one that ended last. One that may not be seen is not there."""
        found = None
        for stream in hub.listed_streams():  # oldest first, live ones last
            if stream.name == name and may(asking, Action.SEE, stream.user, stream.name):
                found = stream
        if found is None:
            raise ApiError(404, "not_found", "there is no such stream")
        return found

    @site.get("/api/v1/streams/<name>/result")
    def show_results(name: str) -> dict[str, Any]:
        stream = stream_for(viewer(), name)
        return {plugin: _describe_result(result) for plugin, result in stream.results.items()}

    @site.put("/api/v1/streams/<name>/rate")
    def set_rate(name: str) -> dict[str, Any]:
        asking = viewer()
        stream = stream_for(asking, name)
        if not may(asking, Action.SET_RATE, stream.user, stream.name):
            raise ApiError(403, "forbidden", "only the stream's owner and admins may set its rate")
        body = _json_body()
        if not isinstance(body, dict) or "hz" not in body:
            raise ApiError(400, "bad_arguments", "expected a JSON object {hz}")
        stream.cap(_rate_hz(body["hz"]))
        return {"wanted_hz": stream.wanted_hz}

    @site.errorhandler(ApiError)
    def answer_error(error: ApiError) -> Response:
        return _error(error.status, error.code, str(error), error.headers)

    @site.errorhandler(UsersUnavailable)
    def answer_unavailable(_error_of_store: UsersUnavailable) -> Response:
        return _error(503, "unavailable", "accounts cannot be looked up at the moment, try again later", {})

    @site.errorhandler(HTTPException)
    def answer_http_error(error: HTTPException) -> Response:
        code = (error.name or "error").lower().replace(" ", "_")
        return _error(error.code or 500, code, error.description or code, {})

    @site.errorhandler(Exception)
    def answer_failure(error: Exception) -> Response:
        if said.allows(type(error).__name__, time.monotonic()):
            logger.exception("%s %r failed", request.method, request.path[:64])
        return _error(500, "failed", "the server could not do this; its log says why", {})

    @site.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return site


def _describe(stream: Stream, now: float) -> dict[str, Any]:
    info = stream.info
    return {
        "name": stream.name,
        "user": stream.user,
        "via": stream.via,
        "live": stream.live,
        "frames": stream.frames,
        "bytes": stream.bytes,
        "refused": dict(stream.refused),
        "dropped": dict(stream.dropped),
        "rate_hz": round(stream.rate_hz, 2),
        "wanted_hz": stream.wanted_hz,
        "size_wh": None if info is None else [info.width, info.height],
        "media_type": None if info is None else info.media_type,
        "age_ms": None if stream.latest_at is None else round((now - stream.latest_at) * 1000),
    }


def _describe_result(result: Result) -> dict[str, Any]:
    value = result.value
    if isinstance(value, bytes):
        value = f"data:{_media_type(value)};base64,{base64.b64encode(value).decode()}"
    return {
        "seq": result.seq,
        "result": value,
        "received_at": _iso(result.received_at, "milliseconds"),
        "made_at": _iso(result.made_at, "milliseconds"),
    }


def _media_type(image: bytes) -> str:
    """Of a picture that a plug-in made; these three are what it may make."""
    if image.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if image.startswith(b"RIFF") else "image/jpeg"


def _json_body() -> Any:
    """What a request's body says; None when it is no JSON."""
    try:
        return request.get_json(silent=True)
    except RecursionError:  # thousands of lists in one another
        return None


def _rate_hz(hz: Any) -> float | None:
    """A rate that somebody asks for, None for none in particular."""
    if hz is None:
        return None
    try:
        rate_hz = float(hz) if isinstance(hz, int | float) and not isinstance(hz, bool) else math.nan
    except OverflowError:
        rate_hz = math.inf
    if not 0 <= rate_hz < math.inf:
        raise ApiError(400, "bad_arguments", "hz: expected a number of at least 0, or null")
    return rate_hz + 0.0  # no negative zero


def _error(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    response = jsonify({"error": {"code": code, "message": message}})
    response.status_code = status
    response.headers.update(headers)
    return response


def _iso(seconds: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
