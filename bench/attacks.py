"""What comes of the attacks in docs/security.md? Each is played from outside against a fresh server, with good cameras
beside it.

Prints the figures of that table, and ends with status 1 if one of them is beyond its bound, or if a good camera got
less than 95 % of its frames taken meanwhile. Attacks are chosen by words of their names: bench/attacks.py guesses.
It takes twenty minutes.
"""

import argparse
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / name) for name in ("tests", "src")]

from display_cost import screen  # noqa: E402
from passlib import hash as kinds  # noqa: E402

import green  # noqa: E402, F401 (before the engine, or eventlet announces its retirement)
from auth.accounts import Account  # noqa: E402
from auth.passwords import hash_password  # noqa: E402
from auth.sql_users import SqlUsers  # noqa: E402
from desktops import bmp, message, packed  # noqa: E402
from engine.unfinished import MAX_UNFINISHED_BYTES  # noqa: E402
from ingest.tcp_gateway import MAX_NEWCOMERS_BYTES  # noqa: E402
from probe import Probe, probing  # noqa: E402
from raw_engineio import BINARY, CONTINUATION, TEXT, client_frame  # noqa: E402
from running import RunningServer, running_server, until  # noqa: E402
from security.connection_attacks import CROWDS, GONE_SEC, hold, upgrade  # noqa: E402
from security.flood_attacks import check, watch  # noqa: E402
from security.flooder import Flood  # noqa: E402
from security.framings import AMBIGUOUS, PATHS, SECOND, talk  # noqa: E402
from security.guesser import WRONG, Guessing  # noqa: E402
from security.guesses_attacks import (  # noqa: E402
    BACK_SEC,
    LIMIT,
    Outcome,
    addresses,
    answer_times,
    check_limit,
    connect_burst,
    count,
    flood,
    flooding,
    http_burst,
    log_in,
    rank_sum_z,
    websocket_burst,
)
from security.images import BOMBS  # noqa: E402
from security.outside import Client, Gone, Watched  # noqa: E402
from security.processes import children_of  # noqa: E402
from security.pull_attacks import LOOPBACK, cameras, forge, own_address, play_pickles, register_crowd  # noqa: E402
from security.storm_attacks import BACK_SEC as STORM_SEC  # noqa: E402
from security.storm_attacks import make_accounts, percentile, problems_of, storming  # noqa: E402
from security.storm_clients import Plan  # noqa: E402
from security.tcp_attacks import (  # noqa: E402
    BAD_MESSAGES,
    MB,
    play_bad,
    play_truncated,
    play_unfinished,
)
from security.tcp_attacks import CROWDS as TCP_CROWDS  # noqa: E402
from security.tcp_attacks import attacked as tcp_attacked  # noqa: E402
from security.tcp_attacks import flooding as tcp_flooding  # noqa: E402
from security.tcp_attacks import hold as tcp_hold  # noqa: E402

USER: Final = ("Alice", "123")
SAMPLES: Final = 200
#: What one connection may cost, in megabytes.
GROWTH_MB: Final = 20
#: What all that is not finished may cost together: 256 MB, as much again that lies between, and images that are kept.
CROWD_MB: Final = 700
#: What a second crowd of clients may add to the memory that the first has left taken.
ADDED_MB: Final = 6
#: A process that shows windows is back so soon after its end.
WINDOWS_SEC: Final = 5.0
#: SIGTERM to the end of the process.
STOP_SEC: Final = 3.0


class Result(NamedTuple):
    """What an attack came to: a figure in words, and what was wrong."""

    figure: str
    problems: list[str]


@contextmanager
def attacked(*arguments: str, account: tuple[str, str] = USER) -> Iterator[tuple[RunningServer, Probe]]:
    """A server with `-a` and a good camera that must not notice."""
    with running_server("-a", *arguments) as server, probing(server.port, account=account) as probe:
        yield server, probe
        probe.stop()
        if "Traceback" in "".join(server.log):
            raise AssertionError("the server's log has tracebacks")


def acks(probe: Probe) -> str:
    time.sleep(1)  # what follows an attack counts too
    figures = probe.stop()
    return f"acks p99 {figures.p99_ms:.0f} ms, {figures.kept:.0%} kept"


# -- guesses


def burst(play: Callable[[int, int], list[Outcome]]) -> Result:
    with attacked() as (server, probe):
        outcomes = play(server.port, 500)
        checked = count(outcomes)[WRONG]
        problems = check_limit(outcomes)
        if checked > LIMIT:
            problems.append(f"{checked} were checked, at most {LIMIT} are allowed")
        return Result(f"{checked} of 500 checked; {acks(probe)}", problems)


def guesses(guessing: Guessing, source: str) -> Result:
    with attacked(account=("Bob", "456")) as (server, probe):
        # Everything that a patient flood can prepare is prepared by then.
        flooded = flood(server.port, guessing, 20 if guessing.times != 1 else 3, source)
        waited = "never" if flooded.login.waited_sec is None else f"after {flooded.login.waited_sec:.1f} s"
        checked = count(flooded.outcomes)[WRONG] / flooded.seconds
        figure = (
            f"{flooded.rate_hz:.0f} guesses/s, {checked:.1f}/s checked; the true user is in {waited}"
            f" ({flooded.login.attempts} attempts); {acks(probe)}"
        )
        return Result(figure, flooded.check())


def times(hashes: Sequence[str]) -> Result:
    known = [f"camera{n:03}" for n in range(SAMPLES)]
    asked = known + [f"nobody{n:03}" for n in range(SAMPLES)]
    random.Random(7).shuffle(asked)
    with tempfile.TemporaryDirectory() as folder:
        source = f"sqlite:///{folder}/users.db"
        users = SqlUsers(source)
        users.insert(Account(name, password_hash=hashes[n % len(hashes)]) for n, name in enumerate(known))
        users.close()
        with running_server("-a", "--users", source) as server:
            answer_times(server.port, ["first 1", "first 2", "first 3"])
            taken = answer_times(server.port, asked)
    of_known = [taken[name] for name in known]
    of_unknown = [seconds for name, seconds in taken.items() if name not in known]
    z = rank_sum_z(of_known, of_unknown)
    problems = [f"the rank sum is {z:.1f} deviations off, 3.6 are allowed"] if abs(z) > 3.6 else []
    medians = (
        f"; medians {1e3 * median(of_known):.1f} and {1e3 * median(of_unknown):.1f} ms" if len(hashes) == 1 else ""
    )
    return Result(f"z = {z:+.1f}{medians}", problems)


def more_guesses_than_hashes() -> Result:
    names = [f"camera{n}" for n in range(20)]
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder) / "users.htpasswd"
        hashed = hash_password("opensesame")
        users.write_text("".join(f"{name}:{hashed}\n" for name in ["Alice", *names]))
        many = Guessing(account="nobody{n}", addresses=addresses(50), rate_hz=1000, connections=10)
        account = ("Alice", "opensesame")
        with attacked("--users", str(users), account=account) as (server, probe), flooding(server.port, many) as going:
            time.sleep(3)
            first, again = (
                [log_in(server.port, (name, "opensesame"), "127.0.0.200").waited_sec or BACK_SEC for name in names]
                for _ in range(2)
            )
            problems = check_limit(going.stop())
            if max(first) > 10 or max(again) > 1:
                problems.append(
                    f"a first login took {max(first):.1f} s (10 are allowed), a second {max(again):.2f} (1)"
                )
            figure = (
                f"first logins {median(first):.1f} s, the longest {max(first):.1f} s;"
                f" recognised ones {1e3 * median(again):.0f} ms; {acks(probe)}"
            )
            return Result(figure, problems)


# -- packets and images


def fragments() -> Result:
    with attacked("--max-frame-bytes", "1000000") as (server, probe):
        watched = Watched(server)
        with Client(server.port, 4, "websocket", join=False) as client:
            code = None
            try:
                client.send_raw(client_frame(BINARY, bytes(60_000), fin=False))
                for _ in range(3_000):  # 180 MB
                    client.send_raw(client_frame(CONTINUATION, bytes(60_000), fin=False))
                client.until(lambda packet: False)
            except Gone:
                code = client.close_code
        grown = watched.peak_growth_mb
        problems = [f"{grown:.0f} MB, {GROWTH_MB} are allowed"] if grown > GROWTH_MB else []
        return Result(f"{grown:.1f} MB, closed {code or 'by a reset'}; {acks(probe)}", problems)


def attachments() -> Result:
    with attacked() as (server, probe), Client(server.port, 4, "websocket") as client:
        began = time.monotonic()
        client.say('459999999999-["receiveImage",{"_placeholder":true,"num":0}]')
        try:
            client.until(lambda packet: False)
        except Gone:
            pass
        ended_ms = 1e3 * (time.monotonic() - began)
        time.sleep(1)
        problems = [f"it ended after {ended_ms:.0f} ms, 1000 are allowed"] if ended_ms > 1000 else []
        return Result(f"ended after {ended_ms:.0f} ms; {acks(probe)}", problems)


def bombs() -> Result:
    with attacked() as (server, probe), Client(server.port, 4, "websocket") as client:
        client.log_in()
        watched = Watched(server)
        for number, image in enumerate(BOMBS.values()):
            client.say(f'451-{number}["receiveImage",{{"_placeholder":true,"num":0}}]', image)
            client.until(lambda packet, number=number: str(packet).startswith(f"43{number}["))
        grown = watched.peak_growth_mb
        refused = server.streams(server.token(*USER)) and sum("too_many_pixels" in str(heard) for heard in client.heard)
        problems = [] if refused >= len(BOMBS) else [f"{refused} of {len(BOMBS)} were refused for their pixels"]
        problems += [f"{grown:.0f} MB, 2 are allowed"] if grown > 2 else []
        return Result(f"{len(BOMBS)} kinds, {grown:.1f} MB; {acks(probe)}", problems)


# -- connections


def crowds(which: dict[str, int]) -> Result:
    """Twice, for the second crowd shows what the first has left behind."""
    with attacked() as (server, probe):
        first, held = hold(server, which), hold(server, which)
        problems = [
            f"only {crowd.gone} of {crowd.clients} had gone after {GONE_SEC:g} s"
            for crowd in (first, held)
            if crowd.gone < 0.9 * crowd.clients
        ]
        grown = held.rss_mb[2] - first.rss_mb[2]
        problems += [f"a second crowd added {grown:.1f} MB, {ADDED_MB} are allowed"] if grown > ADDED_MB else []
        problems += [f"{held.files[2]} files are open, before {first.files[0]}"] * (held.files[2] > first.files[0] + 1)
        return Result(f"{held.summary()}; {acks(probe)}", problems)


def framings() -> Result:
    with attacked() as (server, probe):
        said = [
            talk(server.port, request.replace(b"%b", path) + SECOND) for request in AMBIGUOUS.values() for path in PATHS
        ]
        through = sum(not (a.startswith(b"HTTP/1.1 400 ") and a.count(b"HTTP/1.") == 1) for a in said)
        return Result(
            f"{through} of {len(said)} got through; {acks(probe)}", [f"{through} got through"] * bool(through)
        )


def unread() -> Result:
    """A client asks for acks, as fast as it can, and reads none."""
    with attacked("--rate", "0") as (server, probe), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(upgrade("/socket.io/?EIO=4&transport=websocket"))
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        watched = Watched(server)
        asked = 0
        began = time.monotonic()
        try:
            client.sendall(client_frame(TEXT, b"40"))
            while time.monotonic() - began < 60:
                client.sendall(client_frame(TEXT, b'421["receiveImage",1]') * 100)
                asked += 100
        except OSError:
            pass
        took = time.monotonic() - began
        grown = watched.peak_growth_mb
        problems = [f"{grown:.1f} MB, 1 is allowed"] * (grown > 1) + ["it was not ended"] * (took >= 60)
        return Result(f"ended after {asked:,} acks asked for, {grown:.1f} MB; {acks(probe)}", problems)


def windows_killed() -> Result:
    """The process that shows the windows is killed, and the next one stopped, while a camera sends."""
    with screen() as display, running_server("-a", "-d", env={"DISPLAY": display}) as server:
        with probing(server.port, account=USER) as probe:
            backs = []
            for how in (signal.SIGKILL, signal.SIGSTOP):
                (child,) = children_of(server.process.pid)
                began = time.monotonic()
                os.kill(child, how)
                until(lambda child=child: set(children_of(server.process.pid)) - {child}, "another process", 20)
                backs.append(time.monotonic() - began)
                time.sleep(3)  # it takes a while to get ready, and may: that is not what is looked at
            figures = probe.stop()
        # A hanging one has the deadline of a child to get somewhere.
        late = [f"the windows were back after {back:.1f} s" for back in (backs[0], backs[1] - 6) if back > WINDOWS_SEC]
        return Result(
            f"killed: another after {backs[0]:.1f} s; hanging: after {backs[1]:.1f} s;"
            f" acks p99 {figures.p99_ms:.0f} ms, {figures.kept:.0%} kept",
            late,
        )


# -- crowds of cameras


def flood_of_frames() -> Result:
    with running_server("-a", "--rate", "10") as server:
        alone = watch(server, 4)
        attack = watch(server, 6, [Flood()])
        good = attack.good
        figure = (
            f"{attack.floods[0].rate_hz:.0f} frames/s; of 20 cameras {good.kept:.1%} kept, Jain {good.jain:.4f},"
            f" acks p99 {good.p99_ms:.1f} ms (alone {alone.good.p99_ms:.1f})"
        )
        return Result(figure, check(good, alone.good))


def storm() -> Result:
    plan = Plan(500, accounts=50)
    with tempfile.TemporaryDirectory() as folder:
        source = make_accounts(Path(folder) / "users.sqlite", plan)
        with running_server("-a", "--users", source) as server, storming(server, plan) as clients:
            clients.play("reset", 2.0)
            before = clients.play("reset", 2.0)
            rounds = [clients.play("reset", 2.0) for _ in range(4)]
    back = sorted(seconds for one in rounds for seconds in one.back_sec)
    figure = f"p50 {percentile(back, 50):.2f} s, p99 {percentile(back, 99):.2f} s ({STORM_SEC:g} are allowed)"
    return Result(figure, problems_of(rounds, plan, before))


def stop() -> Result:
    with running_server("-a") as server, probing(server.port, cameras=20, rate_hz=5) as probe:
        time.sleep(1)
        probe.stop()
        clients = [Client(server.port, 4, "websocket") for _ in range(200)]
        began = time.monotonic()
        status = server.stop()
        took = time.monotonic() - began
        for client in clients:
            client.close()
    problems = [f"exit status {status}"] * bool(status) + [f"{took:.1f} s, {STOP_SEC:g} are allowed"] * (
        took > STOP_SEC
    )
    return Result(f"exit status {status} after {took:.1f} s, with 200 clients", problems)


# -- cameras that are pulled


@contextmanager
def pulling(*arguments: str) -> Iterator[tuple[RunningServer, Probe]]:
    """A server that pulls everybody, and a good camera that must not notice."""
    with running_server(*arguments) as server, probing(server.port) as probe:
        yield server, probe
        probe.stop()
        if "Traceback" in "".join(server.log):
            raise AssertionError("the server's log has tracebacks")


def forged_registrations(source: str | None) -> Result:
    with pulling("-i", "0.0.0.0", "--pull-allow", "0.0.0.0/0", "--pull-allow", "::/0") as (server, probe):
        taken, called = forge(server, source, 3)
        problems = [f"{len(taken)} were taken: {taken}"] * bool(taken) + [f"{called} were called"] * bool(called)
        return Result(f"{len(taken)} of {len(LOOPBACK)} taken, {called} called; {acks(probe)}", problems)


def malicious_pickles() -> Result:
    with pulling("--idle-rate", "60") as (server, probe), tempfile.TemporaryDirectory() as folder:
        watched = Watched(server)
        played = play_pickles(server, Path(folder))
        grown = watched.peak_growth_mb
        refused = sum(played.refused.values())
        problems = ["one has run"] * played.ran + [f"{refused} were refused"] * (refused != played.played)
        problems += [f"{grown:.1f} MB, {GROWTH_MB} are allowed"] if grown > GROWTH_MB else []
        return Result(f"{refused} of {played.played} refused, none has run, {grown:.1f} MB; {acks(probe)}", problems)


def cameras_out_of_hand(kind: str, count: int, growth_mb: float, seconds: float = 15) -> Result:
    with pulling() as (server, probe), cameras(kind) as port:
        watched = Watched(server)
        taken = register_crowd(server, port, count)
        time.sleep(seconds)
        grown = watched.peak_growth_mb
        problems = [f"{grown:.1f} MB, {growth_mb} are allowed"] if grown > growth_mb else []
        problems += [f"{taken} of {count} were taken"] * (taken != count)
        return Result(f"{count} cameras, {grown:.1f} MB; {acks(probe)}", problems)


# -- cameras over plain TCP


def grown_too_much(grown_mb: float, allowed_mb: float = GROWTH_MB) -> list[str]:
    return [f"{grown_mb:.1f} MB, {allowed_mb:g} are allowed"] if grown_mb > allowed_mb else []


def bad_messages() -> Result:
    with tcp_attacked() as attack:
        played = [play_bad(attack, name) for name in BAD_MESSAGES]
        played.append(play_truncated(attack))
        grown = attack.peak_growth_mb
        clients, ended = sum(one.clients for one in played), sum(one.ended for one in played)
        problems = [f"only {ended} were ended"] * (ended < clients) + grown_too_much(grown)
        longest = max(one.last_ms for one in played)
        figure = f"{len(played)} kinds: {ended} of {clients} ended, the last after {longest:.0f} ms; {grown:.1f} MB"
        return Result(f"{figure}; {attack.finish()}", problems)


def tcp_crowd(which: dict[str, int], *arguments: str) -> Result:
    with tcp_attacked(*arguments) as attack:
        first, held = tcp_hold(attack, which), tcp_hold(attack, which)
        problems = [
            f"only {crowd.gone} of {crowd.clients} had gone after {GONE_SEC:g} s"
            for crowd in (first, held)
            if crowd.gone < 0.9 * crowd.clients
        ]
        problems += grown_too_much(first.rss_mb[2] - first.rss_mb[0])
        problems += grown_too_much(held.rss_mb[2] - first.rss_mb[2], ADDED_MB)
        return Result(f"{held.summary()}; {attack.finish()}", problems)


def tcp_flood(sent: bytes, rate_hz: float, connections: int, allowed_mb: float = GROWTH_MB) -> Result:
    with tcp_attacked("--rate", "15") as attack:
        with tcp_flooding(attack, sent, rate_hz, connections) as counts:
            time.sleep(8)
        refused = attack.metric("imageserver_refused_frames_total", '"rate"')
        grown = attack.peak_growth_mb
        return Result(
            f"{sum(counts):,} sends in 8 s, {refused:,} refused; {grown:.1f} MB; {attack.finish()}",
            grown_too_much(grown, allowed_mb),
        )


def tcp_unfinished(served: bool, bound: int) -> Result:
    with tcp_attacked() as attack:
        given_way, grown = play_unfinished(attack, UNFINISHED, 4 * MB, served)
        return Result(
            f"{given_way} of {UNFINISHED} gave way; {grown:.0f} MB; {attack.finish()}",
            # Memory that grows with what comes is an eighth ahead of it.
            grown_too_much(grown, bound / MB * 9 / 8 + GROWTH_MB),
        )


#: As many connections as there are places, but for the good ones'.
UNFINISHED: Final = 990
#: A black picture of nearly the largest size, 8 KB as gzip; what 30 such streams keep, and some that are under way.
LARGE_BMP: Final = bmp(1, 1)[:18] + struct.pack("<ii", 1_740, 1_600) + bmp(1, 1)[26:54] + bytes(1_740 * 3 * 1_600)
LARGE_MB: Final = 36 * len(LARGE_BMP) / MB + GROWTH_MB
OWN: Final = ("127.0.0.77",)

ATTACKS: Final[dict[str, Callable[[], Result]]] = {
    "500 guesses in one write, WebSocket": lambda: burst(websocket_burst),
    "500 guesses in one write, CONNECT": lambda: burst(connect_burst),
    "500 guesses in one write, HTTP": lambda: burst(http_burst),
    "guesses from the user's address": lambda: guesses(Guessing(addresses=OWN), OWN[0]),
    "guesses from there, over Socket.IO": lambda: guesses(Guessing(addresses=OWN, transport="socketio"), OWN[0]),
    "guesses from there, each twice": lambda: guesses(Guessing(addresses=OWN, times=2), OWN[0]),
    "guesses from there, each four times": lambda: guesses(Guessing(addresses=OWN, times=4), OWN[0]),
    "guesses from there, at ever new names": lambda: guesses(
        Guessing(addresses=OWN, times=5, account="nobody{n}"), OWN[0]
    ),
    "guesses from 49 others, none given up": lambda: guesses(Guessing(addresses=addresses(49), times=0), OWN[0]),
    "times of guesses, one kind of hash": lambda: times([hash_password("opensesame")]),
    "times of guesses, four kinds of hashes": lambda: times(
        [
            hash_password("opensesame"),
            *(kind.hash("opensesame") for kind in (kinds.apr_md5_crypt, kinds.bcrypt.using(rounds=8), kinds.ldap_sha1)),
        ]
    ),
    "more guesses than can be hashed": more_guesses_than_hashes,
    "a message in endless fragments": fragments,
    "billions of attachments": attachments,
    "image bombs": bombs,
    "1,100 clients that hold connections": lambda: crowds(dict.fromkeys(CROWDS, 1_100 // len(CROWDS) + 1)),
    **{f"1,100 of one kind: {kind}": lambda kind=kind: crowds({kind: 1_100}) for kind in CROWDS},
    "ambiguous requests": framings,
    "acks that nobody reads": unread,
    "windows killed and hanging": windows_killed,
    "registrations of this machine, by a proxy": lambda: forged_registrations(None),
    "registrations of this machine, by others": lambda: forged_registrations(own_address()),
    "malicious pickles": malicious_pickles,
    **{
        f"a pulled camera: {kind}": lambda kind=kind: cameras_out_of_hand(kind, 1, GROWTH_MB)
        for kind in ("an endless body", "an endless MJPEG part", "all but the last byte", "a bomb", "a flood of MJPEG")
    },
    "1,000 pulled cameras that are silent": lambda: cameras_out_of_hand("silent", 1_000, 2 * GROWTH_MB),
    "1,000 pulled cameras of all kinds": lambda: cameras_out_of_hand("all", 1_000, CROWD_MB),
    "100 pulled cameras with 8 MB each": lambda: cameras_out_of_hand("all but the last byte", 100, CROWD_MB),
    "a flood of frames": flood_of_frames,
    "500 clients come back at once": storm,
    "TCP: bad messages": bad_messages,
    "TCP: 1,100 that hold connections": lambda: tcp_crowd(
        {name: 275 for name in TCP_CROWDS if name != "idle"}
    ),
    "TCP: 1,100 half-open sockets": lambda: tcp_crowd({"half-open": 1_100}),
    "TCP: 300 idle cameras": lambda: tcp_crowd({"idle": 300}, "--tcp-idle-sec", "5"),
    "TCP: a flood of frames": lambda: tcp_flood(message(1, packed(bmp(320, 240))), 500, 1),
    "TCP: a flood of tiny images": lambda: tcp_flood(message(1, packed(bmp(1, 1))) * 5_000, 0, 3),
    "TCP: a flood of large images": lambda: tcp_flood(message(1, packed(LARGE_BMP)), 60, 30, LARGE_MB),
    "TCP: unfinished first messages": lambda: tcp_unfinished(False, MAX_NEWCOMERS_BYTES),
    "TCP: unfinished later messages": lambda: tcp_unfinished(True, MAX_UNFINISHED_BYTES),
    "SIGTERM": stop,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="play the attacks whose names hold one of these; default: all")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    failed = False
    for name, play in ATTACKS.items():
        if options.words and not any(word in name for word in options.words):
            continue
        try:
            result = play()
        except AssertionError as error:  # of the probe, above all: a good camera was not served
            result = Result("", [str(error)])
        print(f"{name:<40}{result.figure}", flush=True)
        for problem in result.problems:
            print(f"    FAILED: {problem}", flush=True)
        failed = failed or bool(result.problems)
    print("FAILED" if failed else "ok")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
