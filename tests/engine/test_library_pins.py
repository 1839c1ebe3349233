"""The private parts of libraries that the engine overrides or relies on, as they were when it was written.

A test that fails here after an upgrade says what has moved: read that function's change, see whether `src/engine` or
`src/green.py` must follow, then put the new fingerprint in.
"""

import hashlib
import importlib
import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from engine.engineio_server import EngineServer
from engine.server import Server, StrictPacket

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"

#: By `module:object`; the first twelve digits of the source's SHA-256.
FINGERPRINTS = {
    "socketio.server:Server._handle_connect": "1b0ba130a57d",
    "socketio.server:Server._handle_disconnect": "fb93d61de8cb",
    "socketio.server:Server._handle_event": "3f64c030f25e",
    "socketio.server:Server._handle_event_internal": "37e1c84a6974",
    "socketio.server:Server._handle_ack": "7f114abcf99f",
    "socketio.server:Server._trigger_event": "836cb0c8d232",
    "socketio.server:Server._handle_eio_connect": "4be135c046ed",
    "socketio.server:Server._handle_eio_message": "65f309c138d6",
    "socketio.server:Server._handle_eio_disconnect": "5c0002fcdb35",
    "socketio.server:Server._engineio_server_class": "8d7e7034b245",
    "socketio.server:Server._send_packet": "3289b949be8c",
    "socketio.server:Server._send_eio_packet": "5fa452fb118c",
    "socketio.server:Server.disconnect": "a348aff17b8e",
    "socketio.server:Server.get_session": "76d9c4427870",
    "socketio.base_server:BaseServer.__init__": "6b998e091b34",
    "socketio.packet:Packet.__init__": "5fe2fa797e08",
    "socketio.packet:Packet.encode": "513c45be7518",
    "socketio.packet:Packet.decode": "61ad7904b539",
    "socketio.packet:Packet.add_attachment": "01e024038f3d",
    "socketio.packet:Packet._reconstruct_binary_internal": "dd2f80dad101",
    "socketio.manager:Manager.emit": "566510ea2de3",
    "socketio.manager:Manager.disconnect": "013b92ff9356",
    "socketio.manager:Manager.trigger_callback": "2fb84d8a3eee",
    "socketio.base_manager:BaseManager.connect": "a0214ac7cb24",
    "socketio.base_manager:BaseManager.pre_connect": "bfdba4c0c8f1",
    "socketio.base_manager:BaseManager.is_connected": "d37721466718",
    "socketio.base_manager:BaseManager.sid_from_eio_sid": "15467098a36b",
    "socketio.base_manager:BaseManager.eio_sid_from_sid": "b0c0aeb5430d",
    "socketio.base_manager:BaseManager.basic_disconnect": "2933b50bc4b2",
    "engineio.server:Server._trigger_event": "bc536417c304",
    "engineio.server:Server.get_session": "b5969d24ee21",
    "engineio.server:Server.send": "982d37995465",
    "engineio.server:Server.send_packet": "81aec513663f",
    "engineio.server:Server.disconnect": "3f5faf6e405f",
    "engineio.base_server:BaseServer.__init__": "a06b17502fbd",
    "engineio.base_server:BaseServer._get_socket": "ae2f99e66d63",
    "engineio.base_server:BaseServer._cors_allowed_origins": "d0cad0c66d53",
    "engineio.base_server:BaseServer._cors_headers": "da3a25b43052",
    "engineio.base_server:BaseServer._generate_sid_cookie": "30faebd18e62",
    "engineio.base_server:BaseServer.generate_id": "b6a591454237",
    "engineio.packet:Packet.encode": "8f3d5d869711",
    "eventlet.hubs:trampoline": "dbb09fcd0085",
    "eventlet.hubs.hub:BaseHub.add": "5aa4447a94d4",
    "eventlet.hubs.hub:BaseHub.remove": "7af6377b6ec9",
    "eventlet.hubs.hub:BaseHub.schedule_call_global": "b2a6d8872158",
    "eventlet.hubs.hub:BaseHub.switch": "e9ca670468f3",
    "eventlet.greenthread:GreenThread.wait": "5cea5fc7d3fa",
    "eventlet.greenthread:kill": "02eccb7be20e",
    "eventlet.wsgi:Input.get_socket": "5f6aab731741",
    "eventlet.wsgi:Input.read": "6bdc31151d54",
    "eventlet.wsgi:HttpProtocol.handle_one_response": "b2ae04db91bb",
    "eventlet.tpool:execute": "b4389614472e",
}
NAMES = list(FINGERPRINTS)


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def fingerprint(name: str) -> str:
    return hashlib.sha256(inspect.getsource(find(name)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("library", ["eventlet", "python-socketio", "python-engineio", "websockets"])
def test_the_installed_library_is_the_one_that_requirements_name(library: str) -> None:
    pinned = re.search(rf"^{library}==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    assert pinned is not None, f"{library} is not pinned exactly"
    assert version(library) == pinned[1]


@pytest.mark.parametrize("name", NAMES)
def test_what_we_rely_on_is_as_it_was(name: str) -> None:
    assert fingerprint(name) == FINGERPRINTS[name], f"{name} has changed: read the change, then pin it anew"


OURS = [
    (ours, base, name)
    for ours, base in (
        (Server, "socketio.server:Server"),
        (EngineServer, "engineio.server:Server"),
        (StrictPacket, "socketio.packet:Packet"),
    )
    for name, member in vars(ours).items()
    if (inspect.isfunction(member) or isinstance(member, classmethod)) and hasattr(find(base), name)
]


@pytest.mark.parametrize(("ours", "base", "name"), OURS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_we_override_is_still_called_in_the_same_way(ours: type, base: str, name: str) -> None:
    """Ours takes the arguments of the library's, in their order; what it adds has defaults."""
    theirs = list(inspect.signature(getattr(find(base), name)).parameters.values())
    own = list(inspect.signature(getattr(ours, name)).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own) and name == "__init__":
        return  # it hands everything on
    assert [parameter.name for parameter in own[: len(theirs)]] == [parameter.name for parameter in theirs]
    assert all(parameter.default is not parameter.empty for parameter in own[len(theirs) :])


def test_everything_we_override_was_found() -> None:
    """The other way round: a method of ours that the library no longer has would never be called."""
    overridden = {f"{ours.__name__}.{name}" for ours, _, name in OURS}
    assert overridden >= {
        "Server.disconnect",
        "Server._engineio_server_class",
        "Server._handle_ack",
        "Server._handle_eio_connect",
        "Server._handle_eio_disconnect",
        "Server._handle_eio_message",
        "Server._handle_event_internal",
        "Server._send_eio_packet",
        "Server._send_packet",
        "Server._trigger_event",
        "EngineServer._get_socket",
        "EngineServer.disconnect",
        "EngineServer.handle_request",
        "EngineServer.send_packet",
        "StrictPacket._reconstruct_binary_internal",
        "StrictPacket.decode",
    }


def test_attributes_that_only_instances_have_are_there() -> None:
    server = Server()
    for name in (
        "manager",
        "environ",
        "handlers",
        "namespace_handlers",
        "namespaces",
        "_binary_packet",
        "packet_class",
    ):
        assert hasattr(server, name), name
    for name in (
        "sockets", "transports", "ping_interval", "ping_interval_grace_period", "ping_timeout", "allow_upgrades",
        "max_http_buffer_size", "http_compression", "compression_threshold", "cookie", "cors_allowed_origins", "reason",
    ):  # fmt: skip
        assert hasattr(server.eio, name), name
    for name in ("pending_connect", "pending_disconnect", "rooms", "callbacks"):
        assert hasattr(server.manager, name), name
    assert isinstance(server.eio, EngineServer)


def test_masks_are_applied_by_the_c_extension() -> None:
    """The library's Python fallback has another module and takes 50 times as long."""
    from websockets.speedups import apply_mask

    assert type(apply_mask).__name__ == "builtin_function_or_method"
    assert apply_mask(memoryview(b"\x00\x01\x02\x03\x04"), b"\x01\x02\x03\x04") == b"\x01\x03\x01\x07\x05"
