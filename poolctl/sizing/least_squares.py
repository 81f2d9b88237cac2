"""Least squares for curves of a few parameters, without a numerical library.

Levenberg (1944) and Marquardt (1963), with lower bounds kept by projection and derivatives by differences. Meant for
up to five parameters and some hundred points, where it takes milliseconds.
"""

from collections.abc import Callable, Sequence
from math import inf, isfinite

Residuals = Callable[[Sequence[float]], Sequence[float]]


ITERATIONS = 60


def minimize(residuals: Residuals, start: Sequence[float], lower: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Return the parameters near ``start`` with the least sum of squared residuals, none below ``lower``; and that sum.

    ``start`` must have finite residuals. Parameters should differ from 0 by about their own size; a parameter at 0 is
    moved in steps of 1e-8.
    """
    at = tuple(max(value, bound) for value, bound in zip(start, lower, strict=True))
    values = list(residuals(at))
    best = _sum_of_squares(values)
    damping = 1e-3
    for _ in range(ITERATIONS):
        slopes = _differentiate(residuals, at, values)
        gradient = [sum(slope * value for slope, value in zip(row, values, strict=True)) for row in slopes]
        # A parameter that rests on its bound and would go below it is left out of this step.
        free = [i for i, bound in enumerate(lower) if at[i] > bound or gradient[i] < 0]
        moved = False
        while damping < 1e12 and free:
            normal = [
                [
                    sum(x * y for x, y in zip(slopes[i], slopes[j], strict=True)) * (1 + damping if i == j else 1.0)
                    for j in free
                ]
                for i in free
            ]
            step = solve(normal, [-gradient[i] for i in free])
            if step is not None:
                changes = dict(zip(free, step, strict=True))
                tried = tuple(max(value + changes.get(i, 0.0), lower[i]) for i, value in enumerate(at))
                tried_values = list(residuals(tried))
                reached = _sum_of_squares(tried_values)
                if reached < best:
                    moved = best - reached > 1e-10 * best
                    at, values, best, damping = tried, tried_values, reached, max(damping / 5, 1e-12)
                    break
            damping *= 4
        if not moved:
            break
    return at, best


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float] | None:
    """Return x of matrix x = right, by elimination with the largest pivot; None if the matrix is singular."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        if not abs(rows[pivot][column]) > 0 or not isfinite(rows[pivot][column]):
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(column + 1, size):
            factor = rows[row][column] / rows[column][column]
            for place in range(column, size + 1):
                rows[row][place] -= factor * rows[column][place]
    found = [0.0] * size
    for row in reversed(range(size)):
        rest = sum(rows[row][place] * found[place] for place in range(row + 1, size))
        found[row] = (rows[row][size] - rest) / rows[row][row]
    return found if all(isfinite(value) for value in found) else None


def _differentiate(residuals: Residuals, at: Sequence[float], values: Sequence[float]) -> list[list[float]]:
    """Return the derivatives of all residuals by each parameter: one row for each parameter."""
    rows = []
    for i, value in enumerate(at):
        step = 1e-6 * abs(value) or 1e-8
        moved = [*at]
        moved[i] = value + step
        after = residuals(moved)
        rows.append([(new - old) / step for new, old in zip(after, values, strict=True)])
    return rows


def _sum_of_squares(values: Sequence[float]) -> float:
    total = sum(value * value for value in values)
    return total if isfinite(total) else inf
