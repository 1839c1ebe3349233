"""Tables for people, as text or as Markdown, and what is demanded of the figures in them."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A title, a line of heads, and lines of cells; the first column is text, the others are figures."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]

    def as_text(self) -> str:
        widths = [max(len(line[column]) for line in (self.heads, *self.lines)) for column in range(len(self.heads))]

        def aligned(line: Sequence[str]) -> str:
            first, *others = line
            return first.ljust(widths[0]) + "".join(
                "   " + cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
            )

        return "\n".join([self.title, "", *map(aligned, (self.heads, *self.lines))])

    def as_markdown(self) -> str:
        def row(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        return "\n".join([self.title, "", row(self.heads), "|---" * len(self.heads) + "|", *map(row, self.lines)])


class Demand(NamedTuple):
    """What a figure must be at most, or at least.

    Args:
        unit: behind both figures; `×` for a ratio.
    """

    what: str
    figure: float
    allowed: float
    unit: str = "×"
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.allowed if self.at_least else self.figure <= self.allowed

    def cells(self) -> tuple[str, str, str, str]:
        return (
            self.what,
            f"{shown(self.figure)} {self.unit}",
            f"{'≥' if self.at_least else '≤'} {self.allowed:g} {self.unit}",
            "met" if self.met else "NOT MET",
        )


def shown(figure: float) -> str:
    """With as many digits as mean something: 0.293, 9.81, 57.4, 20,412."""
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}" if figure >= 1 else f"{figure:.3f}"
