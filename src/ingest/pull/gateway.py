"""The gateway for cameras that are pulled: which ones are, and which no more.

    a camera registers itself ─► guard ─► one Puller for an address and port, until it answers no more
    the operator lists it ──────────────► a Puller (http), or a child process (rtsp), until the server stops

Rule 1. Registrations take a bounded number of places, and a camera that works keeps its own.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Final, NamedTuple, Protocol

from engine.unfinished import Unfinished
from frames import Limits
from green import Overloaded, Task, resolve, sleep, spawn
from ingest.camera_users import plain_address
from ingest.door import LIFE_LINES_PER_SEC, Door
from ingest.inflater import Inflater
from ingest.pull.camera_url import CameraUrl
from ingest.pull.guard import Forbidden, PullGuard
from ingest.pull.http_camera import FetchFailed, HttpCamera
from ingest.pull.puller import LISTED, LISTED_RETRY_SEC, REGISTERED, Kind, Puller, Record
from rate import InSum

logger = logging.getLogger(__name__)

#: Cameras that registered themselves, at once: as many as there may be connections over plain TCP.
MAX_PULLERS: Final = 1_000
#: Of one address: more than that on one machine are no cameras.
MAX_PULLERS_AN_ADDRESS: Final = 16


class CannotPull(Exception):
    """A camera that is listed has an address that is none; the message is for the operator."""


class Listed(Protocol):
    """A camera that the operator listed: a `Puller`, or an `ingest.rtsp_camera.RtspCamera`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


#: Makes what receives an RTSP camera of its address, its user and a name for its process.
MakeRtsp = Callable[[CameraUrl, str, str], Listed]


class _Registered(NamedTuple):
    """A camera that registered itself.

    Args:
        requester: the address that the registration came from.
    """

    puller: Puller
    requester: str


class PullGateway:
    """Pulls the cameras that register themselves, and those that the operator lists.

    Args:
        limits: of an image.
        inflater: its threads are shared with others.
        unfinished: where it is counted what is held of answers that are not images yet.
        listed: their addresses, as of `--pull`.
        max_pullers: cameras that registered themselves, at once.

    Attributes:
        record: what has come of them all.
        registered: registrations that were taken; those that were not are `refused`, by cause: bad_address,
            unknown_name, forbidden and busy (guard.py), unreadable, nobodys (with `-a`), too_many.
        displaced: cameras that did not work and made room for others.

    Raises:
        CannotPull: an address that is listed is none.
    """

    def __init__(
        self,
        door: Door,
        guard: PullGuard,
        limits: Limits,
        inflater: Inflater,
        unfinished: Unfinished,
        listed: Iterable[str],
        make_rtsp: MakeRtsp,
        max_pullers: int = MAX_PULLERS,
    ) -> None:
        self._door = door
        self._guard = guard
        self._limits = limits
        self._inflater = inflater
        self._unfinished = unfinished
        try:
            self._urls = [CameraUrl.parse(url) for url in listed]
        except ValueError as error:
            raise CannotPull(f"--pull: {error}") from None
        self._make_rtsp = make_rtsp
        self._max_pullers = max_pullers
        self._registered: dict[tuple[str, int], _Registered] = {}  # by address and port, the oldest first
        self._listed: list[Listed] = []
        self._starting: list[Task] = []
        self._stopping = False
        self._refusals = InSum(LIFE_LINES_PER_SEC, time.monotonic())
        self.record = Record()
        self.registered = 0
        self.refused: Counter[str] = Counter()
        self.displaced = 0

    @property
    def pullers(self) -> int:
        """Cameras that are pulled, or tried."""
        return len(self._registered) + len(self._listed)

    def start(self) -> None:
        """Begin with the cameras that are listed; never waits."""
        for number, url in enumerate(self._urls, 1):
            if url.scheme in ("rtsp", "rtsps"):
                self._starting.append(spawn(self._start_rtsp, url, f"rtsp-{number}"))
            else:
                self._start_listed(url)

    def stop(self) -> None:
        """End all streams and connections; never waits."""
        self._stopping = True
        for task in self._starting:
            task.kill()
        for camera in [*self._listed, *(one.puller for one in self._registered.values())]:
            camera.stop()

    # -- web.registration.Registrar

    def register(self, host: str, port: int, requester: str) -> bool:
        """A camera says where it is; returns whether it will be pulled. May wait, for the lookup of its name.

        Args:
            host: its address or name, as it wrote it.
            requester: the address that it came from; "" where that is not known.
        """
        try:
            addresses = self._guard.check(host, requester)
        except Forbidden as error:
            self.refuse(error.cause, str(error), requester)
            return False
        cause = self._pull(host, addresses, port, requester)
        if cause is not None:
            self.refuse(cause, f"{addresses[0]} port {port}", requester)
            return False
        self.registered += 1
        return True

    def refuse(self, cause: str, what: str, requester: str) -> None:
        """Count a registration that is not taken, and say so."""
        self.refused[cause] += 1
        if (left_out := self._refusals.count(cause, time.monotonic())) is not None:
            logger.info(
                "a registration by %s was not taken (%s): %s%s",
                requester or "somebody behind a proxy",
                cause,
                what,
                left_out,
            )

    # --

    def _pull(self, host: str, addresses: list[str], port: int, requester: str) -> str | None:
        """Pull a camera at these addresses, or go on with it; returns why not."""
        # One address only: whose camera it is must not be another one's than that of the images.
        address = next((one for one in addresses if one == requester), addresses[0])
        key = address, port
        if self._wake(key):
            return None
        user = self._door.user_of_camera(address) or self._door.claim_user("pull")
        if user is None:
            return "nobodys"
        if self._stopping or self._wake(key):  # meanwhile
            self._door.release_user(user)
            return None
        if not self._make_room(address):
            self._door.release_user(user)
            return "too_many"
        url = CameraUrl.registered(address if plain_address(host) else host, port)

        def end(puller: Puller) -> None:
            self._forget(key, puller)
            self._door.release_user(user)

        puller = self._make_puller(url, [address], REGISTERED, lambda: user, end)
        self._registered[key] = _Registered(puller, requester)
        puller.start()
        return None

    def _wake(self, key: tuple[str, int]) -> bool:
        registered = self._registered.get(key)
        if registered is None or registered.puller.stopped:
            return False
        registered.puller.wake()
        return True

    def _forget(self, key: tuple[str, int], puller: Puller) -> None:
        if key in self._registered and self._registered[key].puller is puller:
            del self._registered[key]

    def _make_room(self, address: str) -> bool:
        """See that one more camera has a place, at this address and at all; False when all that are there work."""
        place = place_of(address)
        here = [key for key in self._registered if place_of(key[0]) == place]
        if len(here) >= MAX_PULLERS_AN_ADDRESS:
            return self._displace_one(here)
        return len(self._registered) < self._max_pullers or self._displace_one(self._registered)

    def _displace_one(self, keys: Iterable[tuple[str, int]]) -> bool:
        """Give up the oldest camera that does not work, of who registered most of those; False when all do."""
        idle = [key for key in keys if not self._registered[key].puller.works]
        if not idle:
            return False
        most = Counter(self._registered[key].requester for key in idle).most_common(1)[0][0]
        key = next(key for key in idle if self._registered[key].requester == most)
        self.displaced += 1
        self._registered.pop(key).puller.stop()
        return True

    def _make_puller(
        self,
        url: CameraUrl,
        addresses: list[str] | None,
        kind: Kind,
        find_user: Callable[[], str],
        ended: Callable[[Puller], object],
    ) -> Puller:
        return Puller(
            HttpCamera(url, addresses, self._limits.max_frame_bytes, self._unfinished),
            url.shown,
            kind,
            self._door,
            find_user,
            self._limits.max_frame_bytes,
            self._inflater,
            self._unfinished,
            self.record,
            ended,
        )

    def _start_listed(self, url: CameraUrl) -> None:
        puller = self._make_puller(url, None, LISTED, lambda: self._user_of(url), lambda puller: None)
        self._listed.append(puller)
        puller.start()

    def _start_rtsp(self, url: CameraUrl, name: str) -> None:
        while True:
            try:
                user = self._user_of(url)
                break
            except FetchFailed as error:
                self.record.say(url.shown, str(error))
                sleep(LISTED_RETRY_SEC)
        camera = self._make_rtsp(url, user, name)
        self._listed.append(camera)
        camera.start()

    def _user_of(self, url: CameraUrl) -> str:
        """Whose camera this is that the operator listed.

        Raises:
            FetchFailed: it has no address at the moment.
        """
        try:
            addresses = [url.host] if plain_address(url.host) else resolve(url.host)
        except (OSError, Overloaded) as error:
            raise FetchFailed("unreachable", f"{url.host} has no address: {error}") from None
        user = self._user_at(addresses) or self._door.claim_user("pull", listed=True)
        assert user is not None
        return user

    def _user_at(self, addresses: Iterable[str]) -> str | None:
        return next(filter(None, map(self._door.user_of_camera, addresses)), None)


def place_of(address: str) -> str:
    """What one machine has: an IPv4 address, or the first 64 bits of an IPv6 one."""
    ip = plain_address(address)
    return str(ip) if ip is None or ip.version == 4 else str(ip_network((ip, 64), strict=False))
