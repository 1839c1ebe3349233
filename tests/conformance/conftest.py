"""One server of each kind serves all tests of its file."""

from collections.abc import Iterator

import pytest

from conformance.clients import Peer, conformance_server
from readers import READERS, settings_of


@pytest.fixture(scope="module")
def engineio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with conformance_server("engineio", tmp_path_factory.mktemp("engineio") / "log") as port:
        yield Peer(port, "/engine.io/")


@pytest.fixture(scope="module")
def socketio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with conformance_server("socketio", tmp_path_factory.mktemp("socketio") / "log") as port:
        yield Peer(port, "/socket.io/")


@pytest.fixture(scope="module", params=READERS)
def echo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a plain WebSocket echo."""
    settings_of(request.param)
    with conformance_server("websocket", tmp_path_factory.mktemp("websocket") / "log", request.param) as port:
        yield port
