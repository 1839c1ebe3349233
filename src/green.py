"""The only doorway to eventlet for everything above it: waiting, tasks, timers, and threads for what would block the
loop.

Rule 1. Everything runs on one thread, the loop's; a greenlet keeps it until it waits.
Rule 2. What takes long (a password hash, a disk, a database) goes to `offload`, a real thread, bounded per purpose.
Rule 3. `set`, `call_later` and `on_readable` never wait, so they may be used where a greenlet switch is forbidden.
"""

import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

# eventlet announces its retirement at import; the choice is known, and the line would be the first that a user reads.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated", category=Warning)

import eventlet  # noqa: E402
import eventlet.semaphore  # noqa: E402
from eventlet import greenthread, hubs, patcher, tpool  # noqa: E402
from greenlet import GreenletExit, getcurrent  # noqa: E402

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: How many jobs of a purpose run at once. Password hashing is bound by the cores and the memory of argon2 (19 MiB
#: each); disks and databases by what they serve well side by side; and a name server that does not answer holds its
#: thread for up to half a minute.
OFFLOAD_POOLS: Final = {"password": 2, "disk": 4, "database": 4, "names": 2}
#: How long a job may wait for a thread before its caller is told so. Longer than any burst that the machine can still
#: serve: 500 first logins of different users take 12 s with two threads.
OFFLOAD_WAIT_SEC: Final = 30.0

#: How often `finish_offloaded` looks.
FINISH_STEP_SEC: Final = 0.02

#: With its `poll`, which eventlet takes away as it would wait.
_select: Final = patcher.original("select")
#: With its `getaddrinfo`, which knows what the machine's own one knows: /etc/hosts, `camera.local`.
_socket: Final = patcher.original("socket")

_pools = {purpose: eventlet.semaphore.Semaphore(bound) for purpose, bound in OFFLOAD_POOLS.items()}


class Overloaded(Exception):
    """A job waited `OFFLOAD_WAIT_SEC` for a thread of its purpose and got none."""


def make_green() -> None:
    """Make the standard library's sockets, select and sleep wait on the loop; called once, before anything else is
    imported.

    `threading` stays as it is: libraries that run in `offload` threads (SQLAlchemy, passlib) need locks that work
    between threads, and eventlet's do not. So no code on the loop may hold a lock while it waits. psycopg2 stays as
    it is too: it blocks its own thread only.
    """
    eventlet.monkey_patch(os=True, select=True, socket=True, time=True)
    tpool.set_num_threads(sum(OFFLOAD_POOLS.values()))


def offload(purpose: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread while the loop goes on, and return what it returns or raise what it raises.

    Args:
        purpose: one of `OFFLOAD_POOLS`, which bounds how many run at once.

    Raises:
        Overloaded: no thread of this purpose came free within `OFFLOAD_WAIT_SEC`.
    """
    pool = _pools[purpose]
    if not pool.acquire(timeout=OFFLOAD_WAIT_SEC):
        raise Overloaded(f"no {purpose} thread came free in {OFFLOAD_WAIT_SEC:g} s ({OFFLOAD_POOLS[purpose]} are busy)")
    try:
        return tpool.execute(function, *args, **kwargs)  # type: ignore[no-any-return]
    except BaseException as error:
        # Eventlet holds the error in a frame that the error holds. What the function had in hand, megabytes maybe,
        # would stay until the next collection of garbage.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        pool.release()


def finish_offloaded(purposes: Iterable[str], within_sec: float) -> bool:
    """Wait until the jobs of these purposes that run have ended, none of them cut off in the middle of a write; False
    when the time is over first."""
    deadline = time.monotonic() + within_sec
    while any(_pools[purpose].counter < OFFLOAD_POOLS[purpose] for purpose in purposes):
        if time.monotonic() >= deadline:
            return False
        eventlet.sleep(FINISH_STEP_SEC)
    return True


class Task:
    """A function that runs in a greenlet of its own; what it raises is logged, never lost."""

    __slots__ = ("_thread",)

    def __init__(self, thread: greenthread.GreenThread) -> None:
        self._thread = thread

    def kill(self) -> None:
        """End it where it waits; does nothing when it has ended."""
        self._thread.kill()

    def wait(self) -> None:
        """Wait until it has ended, by itself or killed."""
        try:
            self._thread.wait()
        except GreenletExit:
            if not self._thread.dead:
                raise  # not the task is being killed, but who waits for it

    @property
    def ended(self) -> bool:
        return bool(self._thread.dead)


def spawn(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Task:
    """Start a function in a greenlet of its own, at the loop's next turn."""
    return Task(eventlet.spawn(_logged, function, args, kwargs))


def _logged(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        function(*args, **kwargs)
    except GreenletExit:
        raise
    except Exception:
        logger.exception("%s ended with an error", getattr(function, "__qualname__", function))


def sleep(seconds: float) -> None:
    """Let the others run for at least this long."""
    eventlet.sleep(seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """A deadline for all the waiting in its body, together.

    Not around `offload`: the thread would go on, and its place would be taken for free.

    Raises:
        TimeoutError: in the body, where it waits.
    """
    with eventlet.Timeout(seconds, TimeoutError):
        yield


def wait_readable(fileno: int, within_sec: float) -> bool:
    """Let the others run until a file descriptor is readable, also if it is at once; False when the time is over."""
    try:
        hubs.trampoline(fileno, read=True, timeout=max(within_sec, 0.0), timeout_exc=TimeoutError)
    except TimeoutError:
        return False
    return True


def resolve(host: str) -> list[str]:
    """The addresses of a host, the preferred one first. Waits for a thread and a name server.

    Raises:
        OSError: there is no such host.
        Overloaded: as `offload`.
    """
    found = offload("names", _socket.getaddrinfo, host, None, type=_socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def call_later(seconds: float, function: Callable[[], object]) -> Callable[[], None]:
    """Call a function that does not wait, on the loop, after a time; returns what cancels it (harmless afterwards)."""
    timer = hubs.get_hub().schedule_call_global(seconds, function)
    return timer.cancel  # type: ignore[no-any-return]


def on_readable(fileno: int, callback: Callable[[], object]) -> Callable[[], None]:
    """Call a function that does not wait whenever a file descriptor is readable; returns what ends that.

    The callback must read until there is nothing more or be called again at once. End it before the descriptor is
    closed.
    """
    hub = hubs.get_hub()
    listener = hub.add(hub.READ, fileno, lambda _fileno: callback(), lambda *_: None, lambda: None)
    ended = False

    def cancel() -> None:
        nonlocal ended
        if not ended:
            ended = True
            hub.remove(listener)

    return cancel


def is_writable(fileno: int) -> bool:
    """Whether a file descriptor takes something at this moment; does not wait."""
    poll = _select.poll()
    poll.register(fileno, _select.POLLOUT)
    return bool(poll.poll(0))


class Signal:
    """Wakes the one greenlet that waits for it; what is set before the wait is not lost, and several sets are one."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: Any = None

    def set(self) -> None:
        """Wake the waiter at the loop's next turn; never waits."""
        if not self._set:
            self._set = True
            if self._waiter is not None:
                hubs.get_hub().schedule_call_global(0, self._wake, self._waiter)

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Wait for `set` and clear it again; False when the time is over first."""
        if not self._set:
            hub = hubs.get_hub()
            # A list, to tell this wait from the greenlet's next one, which a late wake-up must not end.
            self._waiter = waiter = [getcurrent()]
            timer = None if timeout_sec is None else hub.schedule_call_global(timeout_sec, self._wake, waiter)
            try:
                hub.switch()
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        was_set, self._set = self._set, False
        return was_set

    def _wake(self, waiter: list[Any]) -> None:
        # The waiter may have gone on meanwhile (by the timer, or killed), and another wait may have begun.
        if self._waiter is waiter:
            self._waiter = None
            waiter[0].switch()


class Once:
    """Something that happens once; any number of greenlets may wait for it."""

    __slots__ = ("_happened", "_waiters")

    def __init__(self) -> None:
        self._happened = False
        self._waiters: list[Signal] = []

    def set(self) -> None:
        """It has happened; never waits."""
        self._happened = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set()

    def is_set(self) -> bool:
        return self._happened

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Wait until it has happened; False when the time is over first."""
        if not self._happened:
            waiter = Signal()
            self._waiters.append(waiter)
            if not waiter.wait(timeout_sec) and not self._happened:
                self._waiters.remove(waiter)
        return self._happened
