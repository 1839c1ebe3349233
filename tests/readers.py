"""The readers that the server may be told to use: what holds for one holds for all, so tests take each in turn."""

from typing import Final

from settings import Settings

READERS: Final = ("python",)


def settings_of(reader: str) -> dict[str, str]:
    """The settings that choose this reader, once the server knows that option."""
    return {"reader": reader} if "reader" in Settings._fields else {}
