"""The documents tell the truth: every option, event, code and address that the code knows is in them."""

import re
from pathlib import Path

import pytest

import ingest.socketio_gateway as gateway
from settings import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
SOURCES = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_a_line_in_the_readme_with_its_default(option) -> None:
    line = re.search(rf"^\| .*`--{option.name}.*$", README, re.MULTILINE)
    assert line, f"--{option.name} is not in the README's table"
    for spelling in option.more:
        assert f"`{spelling}" in line[0]
    default = option.default
    if not isinstance(default, bool) and default not in (None, []):
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert f"| `{shown}` |" in line[0]


def test_the_readme_names_no_option_that_does_not_exist() -> None:
    table = re.findall(r"^\| `.*--([a-z-]+)", README, re.MULTILINE)
    assert set(table) == {option.name for option in OPTIONS} | {"config", "help"}


@pytest.mark.parametrize("event", sorted(gateway.RESERVED_EVENTS))
def test_every_reserved_event_is_in_the_protocol(event: str) -> None:
    assert f"`{event}`" in PROTOCOL


def test_every_code_of_a_refusal_is_in_the_protocol() -> None:
    rooms = [text for path, text in SOURCES.items() if path.parent.name == "ingest" or path.stem in ("hub", "frames")]
    codes = {code for text in rooms for code in re.findall(r'(?:Refusal|InvalidFrame|error)\(\s*"([a-z_]+)"', text)}
    assert len(codes) > 5
    assert {code for code in codes if f"| `{code}` |" not in PROTOCOL} == set()


def test_every_address_of_the_site_is_in_the_protocol() -> None:
    addresses = {found for text in SOURCES.values() for found in re.findall(r'@site\.[a-z]+\("([^"]+)"', text)}
    assert "/healthz" in addresses
    assert {address for address in addresses if address not in PROTOCOL} == set()


@pytest.mark.parametrize(
    "document", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_links_lead_to_files_that_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_no_figure_is_left_to_be_measured() -> None:
    for document in ROOT.glob("docs/*.md"):
        assert not re.search(r"\bFIGURE\b|\bTODO\b|\bTBD\b", document.read_text()), document.name
