"""Imports run downward only, and the server process imports none of the libraries that belong into children."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"

#: From the ground up. A module may import what stands on a floor below its own, and nothing beside it.
FLOORS = (
    ("compiled", "frames", "rate", "ring", "green", "memory", "stopping"),
    ("results", "settings", "subscriptions", "http1", "child_log", "capture"),
    ("hub", "engine", "children", "serving", "auth"),
    ("ingest", "display", "processing", "metrics"),
    ("web", "readings"),
    ("app",),
    ("ImageServer", "__main__", "client_sim"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

#: What only children and the simulator may import (docs/design.md, law 1).
NOT_IN_THE_SERVER = ("cv2", "numpy", "PIL", "av", "matplotlib")

MODULES = sorted(path.relative_to(SRC) for path in SRC.rglob("*.py"))


def room_of(module: Path) -> str:
    return "__main__" if module.name == "__main__.py" else module.parts[0].removesuffix(".py")


def imported_rooms(module: Path) -> set[str]:
    tree = ast.parse((SRC / module).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names} & FLOOR_OF.keys()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_the_floors_below(module: Path) -> None:
    room = room_of(module)
    assert room in FLOOR_OF, f"{module} stands on no floor: add it to FLOORS"
    own = {room, module.parts[0].removesuffix(".py")}
    wrong = {name for name in imported_rooms(module) - own if FLOOR_OF[name] >= FLOOR_OF[room]}
    assert not wrong, f"{module} (floor {FLOOR_OF[room]}) imports {sorted(wrong)}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.name == "__init__.py"], ids=str)
def test_a_package_holds_a_docstring_and_no_imports(module: Path) -> None:
    body = ast.parse((SRC / module).read_text()).body
    assert len(body) == 1, f"{module} holds more than a docstring"
    assert isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_eventlet_is_named_in_green_engine_http1_and_serving_only(module: Path) -> None:
    if room_of(module) not in ("green", "engine", "http1", "serving"):
        assert "eventlet" not in {
            name.split(".")[0]
            for node in ast.walk(ast.parse((SRC / module).read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }


def test_the_server_process_holds_no_library_that_decodes_or_draws() -> None:
    code = f"import ImageServer, sys; print([name for name in {NOT_IN_THE_SERVER!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
