"""The readers that the server may be told to use: what holds for one holds for all, so tests take each in turn."""

from typing import Final

from peers import need

READERS: Final = ("python", "compiled")


def settings_of(reader: str) -> dict[str, str]:
    """The settings that choose this reader; the test runs on only where it is there."""
    if reader == "compiled":
        need("compiled-reader")
    return {"reader": reader}
