"""Throughput curves of two kinds, fitted to what was measured: the Universal Scalability Law, and a closed loop.

They smooth a curve and say where to measure next. They do not say what lies outside the measured range: eight low
points of a curve have put its peak 60 % too far out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, fsum, inf, isfinite, log, sqrt
from typing import Literal

from poolctl.scenario.replications import CONFIDENCE, student_t
from poolctl.sizing.queueing import closed_throughput

Residuals = Callable[[Sequence[float]], Sequence[float]]

ITERATIONS = 60


def minimize(residuals: Residuals, start: Sequence[float], lower: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Parameters, none below ``lower``, for which the sum of squared residuals is least near ``start``; and that sum.

    ``start`` must have finite residuals. Parameters should differ from 0 by about their own size; a parameter at 0
    is moved in steps of 1e-8.
    """
    at = tuple(max(value, bound) for value, bound in zip(start, lower, strict=True))
    values = list(residuals(at))
    best = _least_square_sum_of_squares(values)
    damping = 1e-3
    for _ in range(ITERATIONS):
        slopes = _slopes(residuals, at, values)
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
                reached = _least_square_sum_of_squares(tried_values)
                if reached < best:
                    moved = best - reached > 1e-10 * best
                    at, values, best, damping = tried, tried_values, reached, max(damping / 5, 1e-12)
                    break
            damping *= 4
        if not moved:
            break
    return at, best


def standard_errors(residuals: Residuals, at: Sequence[float], lower: Sequence[float]) -> tuple[float | None, ...]:
    """Of each parameter at the minimum, by the linear approximation s^2 (J'J)^-1; None for one on its bound.

    None for all where there are no more points than free parameters, or the points do not tell them apart.
    """
    values = list(residuals(at))
    slopes = _slopes(residuals, at, values)
    free = [i for i, bound in enumerate(lower) if at[i] > bound]
    freedom = len(values) - len(free)
    found: list[float | None] = [None] * len(at)
    if freedom < 1:
        return tuple(found)
    variance = _least_square_sum_of_squares(values) / freedom
    normal = [[sum(x * y for x, y in zip(slopes[i], slopes[j], strict=True)) for j in free] for i in free]
    for place, i in enumerate(free):
        unit = [1.0 if row == place else 0.0 for row in range(len(free))]
        column = solve(normal, unit)
        if column is not None and column[place] >= 0:
            found[i] = sqrt(variance * column[place])
    return tuple(found)


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float] | None:
    """x of matrix x = right, by elimination with the largest pivot; None when the matrix is singular."""
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


def _slopes(residuals: Residuals, at: Sequence[float], values: Sequence[float]) -> list[list[float]]:
    """Of every residual, by each parameter: one row a parameter."""
    rows = []
    for i, value in enumerate(at):
        step = 1e-6 * abs(value) or 1e-8
        moved = [*at]
        moved[i] = value + step
        after = residuals(moved)
        rows.append([(new - old) / step for new, old in zip(after, values, strict=True)])
    return rows


def _least_square_sum_of_squares(values: Sequence[float]) -> float:
    total = sum(value * value for value in values)
    return total if isfinite(total) else inf


Point = tuple[float, float]
"""Connections, and throughput with so many."""

Residual = Literal["plain", "log"]
"""What is squared: differences of throughput, or of its logarithm, which gives every point the same relative weight."""

FEWEST_POINTS = 3
MOST_FOLDS = 10
"""Of a long curve several points, evenly spread, are left out at a time."""


@dataclass(frozen=True, slots=True)
class UslFit:
    """X(N) = gamma N / (1 + alpha (N - 1) + beta N (N - 1)): Gunther, Guerrilla Capacity Planning (2007).

    ``gamma`` is the throughput of one connection, ``alpha`` the share that queues for one another (contention),
    ``beta`` the price of each pair keeping in step (coherency). The intervals are those of Student's t at 95 %, None
    where the points do not bound them. ``peak_at`` None: the curve has no peak. ``left_out_error``: see ``fit_usl``.
    """

    gamma: float
    alpha: float
    beta: float
    alpha_interval: tuple[float, float] | None
    beta_interval: tuple[float, float] | None
    peak_at: float | None
    peak: float | None
    relative_error: float
    """Root of the mean squared relative difference from the points."""
    left_out_error: float | None

    def throughput(self, connections: float) -> float:
        return _usl(self.gamma, self.alpha, self.beta, connections)

    @property
    def linear_until(self) -> float | None:
        """Where the first straight line would meet the ceiling gamma / alpha; None without contention."""
        return 1 / self.alpha if self.alpha > 0 else None


@dataclass(frozen=True, slots=True)
class ClosedFit:
    """The machine repair model (``queueing.closed_throughput``): times in seconds, cores whole."""

    cores: int
    work: float
    outside: float
    relative_error: float
    left_out_error: float | None

    def throughput(self, connections: int) -> float:
        return closed_throughput(connections, self.cores, self.work, self.outside)


def fit_usl(points: Sequence[Point], *, residual: Residual = "log") -> UslFit | None:
    """The law nearest to ``points``; None with fewer than three different numbers of connections or no throughput.

    Contention and coherency below 0 (points above the straight line) are held at 0. ``left_out_error`` is the root
    of the mean squared relative error with which the other points predict each point; it needs five.
    """
    usable = _usable(points)
    if usable is None:
        return None
    gamma, alpha, beta = _usl_parameters(usable, residual)
    residuals = _usl_residuals(usable, residual)
    errors = standard_errors(residuals, (gamma, alpha, beta), (1e-300, 0.0, 0.0))
    width = student_t(CONFIDENCE, len(usable) - 3) if len(usable) > 3 else None

    def interval(value: float, error: float | None) -> tuple[float, float] | None:
        return None if width is None or error is None else (value - width * error, value + width * error)

    peak_at = sqrt((1 - alpha) / beta) if beta > 0 and alpha < 1 else None
    return UslFit(
        gamma=gamma,
        alpha=alpha,
        beta=beta,
        alpha_interval=interval(alpha, errors[1]),
        beta_interval=interval(beta, errors[2]),
        peak_at=peak_at,
        peak=None if peak_at is None else _usl(gamma, alpha, beta, peak_at),
        relative_error=_relative_error(usable, lambda n: _usl(gamma, alpha, beta, n)),
        left_out_error=_left_out_error(usable, lambda rest: _usl_curve(rest, residual)),
    )


def fit_closed(points: Sequence[Point], cores: int | None = None) -> ClosedFit | None:
    """The closed loop nearest to ``points`` in relative terms; ``cores`` None: those that fit best.

    None with fewer than three different numbers of connections. It has no peak: past a curve's peak leave points out.
    """
    usable = _usable(points)
    if usable is None:
        return None
    counts = [cores] if cores is not None else _possible_cores(usable)
    # The start values alone tell which numbers of cores are worth a fit.
    likely = sorted(counts, key=lambda count: _sum_of_squares(usable, count, *_closed_start(usable, count)))[:3]
    fits = [(count, *_closed_parameters(usable, count)) for count in likely]
    best = min(fits, key=lambda fit: fit[3])
    count, work, outside, _ = best
    return ClosedFit(
        cores=count,
        work=work,
        outside=outside,
        relative_error=_relative_error(usable, lambda n: closed_throughput(round(n), count, work, outside)),
        left_out_error=_left_out_error(usable, lambda rest: _closed_curve(rest, count)),
    )


def _usable(points: Sequence[Point]) -> list[Point] | None:
    usable = [(n, x) for n, x in points if n >= 1 and x > 0]
    return usable if len({n for n, _ in usable}) >= FEWEST_POINTS else None


def _usl(gamma: float, alpha: float, beta: float, n: float) -> float:
    return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def _usl_residuals(points: Sequence[Point], residual: Residual) -> Callable[[Sequence[float]], list[float]]:
    if residual == "log":
        return lambda at: [log(_usl(at[0], at[1], at[2], n) / x) for n, x in points]
    scale = max(x for _, x in points)
    return lambda at: [(_usl(at[0], at[1], at[2], n) - x) / scale for n, x in points]


def _usl_parameters(points: Sequence[Point], residual: Residual) -> tuple[float, float, float]:
    start = _usl_start(points)
    at, _ = minimize(_usl_residuals(points, residual), start, (1e-9 * start[0], 0.0, 0.0))
    return at[0], at[1], at[2]


def _usl_start(points: Sequence[Point]) -> tuple[float, float, float]:
    """By linear least squares of N / X on 1, N - 1 and N (N - 1), relative; without those terms that would be
    negative."""
    best = (max(x / n for n, x in points), 0.0, 0.0)
    for terms in ((0, 1, 2), (0, 1), (0, 2)):
        rows = [([1.0, n - 1, n * (n - 1)], n / x) for n, x in points]
        normal = [[fsum(row[i] * row[j] / y**2 for row, y in rows) for j in terms] for i in terms]
        found = solve(normal, [fsum(row[i] / y for row, y in rows) for i in terms])
        if found is not None and found[0] > 0 and all(value >= 0 for value in found):
            parts = dict(zip(terms, found, strict=True))
            return 1 / parts[0], parts.get(1, 0.0) / parts[0], parts.get(2, 0.0) / parts[0]
    return best


def _usl_curve(points: Sequence[Point], residual: Residual) -> Callable[[float], float]:
    gamma, alpha, beta = _usl_parameters(points, residual)
    return lambda n: _usl(gamma, alpha, beta, n)


def _possible_cores(points: Sequence[Point]) -> list[int]:
    """Up to the number of connections where the curve still rises in proportion, doubling with steps between."""
    most = max(n for n, _ in points)
    counts, count = [], 1.0
    while count <= most:
        counts.append(round(count))
        count *= 1.5 if count >= 2 else 2
    return sorted(set(counts))


def _closed_parameters(points: Sequence[Point], cores: int) -> tuple[float, float, float]:
    """Work, outside, and the sum of squared relative differences. Fitted as logarithms, so that both stay positive."""
    work, outside = _closed_start(points, cores)

    def residuals(at: Sequence[float]) -> list[float]:
        return [log(closed_throughput(round(n), cores, _time(at[0]), _time(at[1])) / x) for n, x in points]

    at, left = minimize(residuals, (log(work), log(outside)), (-inf, -inf))
    return _time(at[0]), _time(at[1]), left


def _time(logarithm: float) -> float:
    """Seconds; far steps of a fit stay numbers."""
    return exp(min(max(logarithm, -50.0), 50.0))


def _closed_start(points: Sequence[Point], cores: int) -> tuple[float, float]:
    """Work from the ceiling, a little above the best point, and outside from the steepest one."""
    work = cores / (1.02 * max(x for _, x in points))
    return work, max(1 / max(x / n for n, x in points) - work, 0.02 * work)


def _sum_of_squares(points: Sequence[Point], cores: int, work: float, outside: float) -> float:
    return fsum(log(closed_throughput(round(n), cores, work, outside) / x) ** 2 for n, x in points)


def _closed_curve(points: Sequence[Point], cores: int) -> Callable[[float], float]:
    work, outside, _ = _closed_parameters(points, cores)
    return lambda n: closed_throughput(round(n), cores, work, outside)


def _relative_error(points: Sequence[Point], curve: Callable[[float], float]) -> float:
    return sqrt(fsum((curve(n) / x - 1) ** 2 for n, x in points) / len(points))


def _left_out_error(
    points: Sequence[Point], fit: Callable[[Sequence[Point]], Callable[[float], float]]
) -> float | None:
    counts = sorted({n for n, _ in points})
    if len(counts) < FEWEST_POINTS + 2:
        return None
    errors: list[float] = []
    for fold in range(min(len(counts), MOST_FOLDS)):
        left_out = set(counts[fold::MOST_FOLDS])
        curve = fit([point for point in points if point[0] not in left_out])
        errors.extend((curve(n) / x - 1) ** 2 for n, x in points if n in left_out)
    return sqrt(fsum(errors) / len(errors))
