"""Where windows go, for any number of pictures of any shape."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from display.layout import BORDER_PX, SMALLEST_WH, TITLE_PX, Rect, cells, fit, window_in

sizes = st.tuples(st.integers(1, 8000), st.integers(1, 8000))
screens = st.builds(Rect, st.integers(0, 2000), st.integers(0, 200), st.integers(640, 4000), st.integers(480, 3000))


def with_frame(place: Rect) -> Rect:
    """The room that a window takes with all that a window manager draws around it."""
    return Rect(place.x, place.y, place.width + 2 * BORDER_PX, place.height + TITLE_PX + BORDER_PX)


def is_inside(inner: Rect, outer: Rect) -> bool:
    return (
        inner.x >= outer.x
        and inner.y >= outer.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


@given(st.lists(sizes, max_size=40), screens)
def test_windows_cover_neither_one_another_nor_the_edge_of_the_screen(
    pictures: list[tuple[int, int]], screen: Rect
) -> None:
    places = [
        with_frame(window_in(cell, picture))
        for cell, picture in zip(cells(len(pictures), screen), pictures, strict=True)
    ]
    assert all(is_inside(place, screen) for place in places)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(places, 2))


@given(sizes, screens)
def test_a_window_has_the_shape_of_its_picture_and_is_not_larger_than_it_needs(
    picture: tuple[int, int], screen: Rect
) -> None:
    place = window_in(screen, picture)
    exact_height = place.width * picture[1] / picture[0]
    exact_width = place.height * picture[0] / picture[1]
    assert abs(place.height - exact_height) <= 1 + exact_height / 100 or abs(place.width - exact_width) <= 1
    assert place.width <= max(picture[0], SMALLEST_WH[0])
    assert place.height <= max(picture[1], SMALLEST_WH[1])


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (9, 3, 3), (16, 4, 4)]
)
def test_a_usual_screen_is_cut_as_a_person_would(count: int, columns: int, rows: int) -> None:
    grid = cells(count, Rect(0, 0, 1280, 800))
    assert len(grid) == count
    assert {cell[2:] for cell in grid} == {(1280 // columns, 800 // rows)}


def test_nothing_to_show_needs_no_cells() -> None:
    assert cells(0, Rect(0, 0, 1280, 800)) == []


@pytest.mark.parametrize(
    ("picture", "box", "expected"),
    [
        ((640, 480), (320, 240), (320, 240)),
        ((640, 480), (320, 1000), (320, 240)),
        ((480, 640), (320, 240), (180, 240)),
        ((160, 120), (320, 240), (320, 240)),
        ((8000, 1), (100, 100), (100, 1)),
    ],
)
def test_a_picture_fits_into_a_box(picture: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(picture, box) == expected
