"""Where windows go so that none covers another; numbers only."""

from typing import Final, NamedTuple

#: Room for what a window manager draws around a picture: a title above, a border on the other sides. The common ones
#: need 20 to 37 pixels above and up to 4 beside.
TITLE_PX: Final = 40
BORDER_PX: Final = 4
#: Pictures smaller than this are enlarged, so that one can see them and read the corner.
SMALLEST_WH: Final = (320, 240)


class Rect(NamedTuple):
    """A part of the screen in pixels."""

    x: int
    y: int
    width: int
    height: int

    def overlaps(self, other: "Rect") -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


def cells(count: int, area: Rect) -> list[Rect]:
    """Cut an area into a grid of at least so many equal cells, row by row, in which pictures of 4:3 are largest."""

    def picture_width(columns: int) -> float:
        width = area.width // columns - 2 * BORDER_PX
        height = area.height // -(-count // columns) - TITLE_PX - BORDER_PX
        return min(width, height * 4 / 3)

    columns = max(range(1, count + 1), key=picture_width, default=1)
    rows = -(-count // columns)
    width, height = area.width // columns, area.height // max(rows, 1)
    return [
        Rect(area.x + index % columns * width, area.y + index // columns * height, width, height)
        for index in range(count)
    ]


def fit(picture_wh: tuple[int, int], box_wh: tuple[int, int]) -> tuple[int, int]:
    """The largest size of a picture's shape that fits into a box; at least a pixel."""
    width, height = picture_wh
    scale = min(box_wh[0] / width, box_wh[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def window_in(cell: Rect, picture_wh: tuple[int, int]) -> Rect:
    """Where a picture's window goes in its cell: in the middle, at the picture's own size if there is room.

    Returns:
        the corner of the window with all that is around the picture, and the size of the picture itself.
    """
    room_wh = max(1, cell.width - 2 * BORDER_PX), max(1, cell.height - TITLE_PX - BORDER_PX)
    wanted_wh = picture_wh
    if picture_wh[0] < SMALLEST_WH[0] and picture_wh[1] < SMALLEST_WH[1]:
        wanted_wh = fit(picture_wh, SMALLEST_WH)
    if wanted_wh[0] > room_wh[0] or wanted_wh[1] > room_wh[1]:
        wanted_wh = fit(picture_wh, room_wh)
    width, height = wanted_wh
    return Rect(cell.x + (room_wh[0] - width) // 2, cell.y + (room_wh[1] - height) // 2, width, height)
