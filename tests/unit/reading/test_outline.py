"""Outlines are closed polygons on pixel edges, 0,0 at the corner of the first pixel (PS3.3 C.18.6.1.1)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from tests.soak import times

from wetread.reading.outline import outline


def _area(points: tuple[tuple[float, float], ...]) -> float:
    """Shoelace, positive clockwise on the screen."""
    x, y = np.array(points).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def test_a_rectangle_is_outlined_by_its_corners() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    points = outline(mask)
    assert points[0] == points[-1]
    assert set(points) == {(3, 2), (9, 2), (9, 5), (3, 5)}


def test_only_the_largest_region_is_outlined_and_its_holes_are_filled() -> None:
    mask = np.zeros((20, 20), bool)
    mask[1:3, 1:3] = True
    mask[5:15, 5:15] = True
    mask[8:12, 8:12] = False
    assert _area(outline(mask)) == 100


def test_an_empty_mask_has_no_outline() -> None:
    assert outline(np.zeros((4, 4), bool)) == ()


def test_a_disc_keeps_its_area_with_few_points() -> None:
    rows, columns = np.mgrid[:200, :200]
    mask = (rows - 100) ** 2 + (columns - 90) ** 2 < 60**2
    points = outline(mask)
    assert _area(points) == pytest.approx(mask.sum(), rel=0.01)
    assert len(points) < 100


@settings(max_examples=times(150), deadline=None)
@given(arrays(np.bool_, (9, 9), elements=st.booleans()))
def test_unthinned_outlines_enclose_exactly_the_largest_region(mask: NDArray[np.bool_]) -> None:
    labels, count = ndimage.label(mask)
    points = outline(mask, tolerance=0)
    if not count:
        assert points == ()
        return
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    assert _area(points) == ndimage.binary_fill_holes(labels == largest).sum()
