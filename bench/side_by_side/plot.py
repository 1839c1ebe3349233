"""A bar chart as SVG, written by hand: a panel for each way to send, a bar for each server, the figure beside it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 760
_MARGIN: Final = 24
_NAMES_WIDTH: Final = 170
_FIGURE_WIDTH: Final = 70
_BAR: Final = 18
_STEP: Final = 24
_PANEL_HEAD: Final = 34
_PANEL_GAP: Final = 14
_HEAD: Final = 64
#: Ours, the others, and the floor: told apart in grey as well.
_OURS: Final = "#0b6e4f"
_OTHERS: Final = "#9db4c0"
_FLOOR: Final = "#d9d9d9"


class Bar(NamedTuple):
    name: str
    figure: float
    label: str
    kind: str
    """`ours`, `other` or `floor`."""


_COLOURS: Final[Mapping[str, str]] = {"ours": _OURS, "other": _OTHERS, "floor": _FLOOR}


def bar_chart(title: str, subtitle: str, panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """An SVG document. Each panel has a scale of its own, for a large image costs forty times a small one."""
    parts = []
    y = _HEAD
    for name, bars in panels:
        parts.append(_text(_MARGIN, y + 18, name, size=14, weight="bold"))
        y += _PANEL_HEAD
        longest = max(bar.figure for bar in bars)
        room = WIDTH - 2 * _MARGIN - _NAMES_WIDTH - _FIGURE_WIDTH
        for bar in bars:
            x, length = _MARGIN + _NAMES_WIDTH, max(bar.figure / longest * room, 1)
            middle = y + _BAR / 2 + 4.5
            parts.append(_text(x - 10, middle, bar.name, anchor="end"))
            parts.append(
                f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{_COLOURS[bar.kind]}"/>'
            )
            parts.append(_text(x + length + 8, middle, bar.label))
            y += _STEP
        y += _PANEL_GAP
    height = y + 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
            f' role="img" aria-label="{escape(title)}">',
            # A page may be dark, and the text is not.
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            _text(_MARGIN, 30, title, size=18, weight="bold"),
            _text(_MARGIN, 50, subtitle, colour="#555555"),
            *parts,
            "</svg>\n",
        ]
    )


def _text(
    x: float,
    y: float,
    text: str,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = "#222222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Helvetica, Arial, sans-serif" font-size="{size}"'
        f' font-weight="{weight}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
