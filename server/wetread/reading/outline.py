"""The outline of a mask as a polygon on its image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[float, float]


def outline(mask: NDArray[np.bool_], tolerance: float = 0.75) -> tuple[Point, ...]:
    """The outer border of the mask's largest region: a closed polygon, first point repeated at the end.

    Points are (column, row) where 0,0 is the upper left corner of the first pixel (PS3.3 C.18.6.1.1), on pixel edges,
    thinned to `tolerance` pixels (Douglas and Peucker 1973). Empty for an empty mask.
    """
    labels, count = ndimage.label(mask)
    if not count:
        return ()
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    region = ndimage.binary_fill_holes(labels == largest)
    return tuple((float(x), float(y)) for x, y in _thinned(_border(region), tolerance))


def _border(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixel edges between inside and outside, chained with the inside on the right hand."""
    padded = np.pad(region, 1)
    core = padded[1:-1, 1:-1]
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Neighbour that must be outside, and the edge's start and end corner relative to the pixel (column, row).
    for outside, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for row, column in np.argwhere(core & ~outside).tolist():
            corner = column + start[0], row + start[1]
            after.setdefault(corner, []).append((column + end[0], row + end[1]))
    first = min(after)
    path = [first]
    heading = (0, 0)
    while True:
        here = path[-1]
        ways = after[here]
        # Where two pixels touch at a corner, turn right: stay on the same pixel.
        step = min(ways, key=lambda to: _turn(heading, (to[0] - here[0], to[1] - here[1])))
        ways.remove(step)
        heading = step[0] - here[0], step[1] - here[1]
        path.append(step)
        if step == first:
            return np.array(path, dtype=np.float64)


def _turn(before: tuple[int, int], after: tuple[int, int]) -> int:
    return -(before[0] * after[1] - before[1] * after[0])


def _thinned(path: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    keep = np.zeros(len(path), dtype=np.bool_)
    farthest = int(np.argmax(((path - path[0]) ** 2).sum(axis=1)))
    keep[[0, farthest, -1]] = True
    spans = [(0, farthest), (farthest, len(path) - 1)]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        chord = path[end] - path[start]
        offset = path[start + 1 : end] - path[start]
        distance = np.abs(chord[0] * offset[:, 1] - chord[1] * offset[:, 0]) / max(float(np.hypot(*chord)), 1e-9)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            spans += [(start, middle), (middle, end)]
    return path[keep]
