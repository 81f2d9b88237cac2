"""Throughput curves of two forms, fitted to measured points: the Universal Scalability Law, and a closed loop.

They smooth a curve and show where to measure next. They do not extrapolate: fitted to the eight lowest points of a
published curve, the law put the peak 60 % too far to the right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, fsum, inf, log, sqrt
from typing import Literal

from poolctl.sizing.least_squares import minimize, solve
from poolctl.sizing.queueing import closed_throughput

Point = tuple[float, float]
"""Number of connections, and the throughput with it."""

Residual = Literal["plain", "log"]
"""What is squared: differences of throughput, or of its logarithm, which gives each point the same relative weight."""

FEWEST_POINTS = 3
MOST_FOLDS = 10
"""Of a long curve, several points at regular distances are left out together."""


@dataclass(frozen=True, slots=True)
class UslFit:
    """X(N) = gamma N / (1 + alpha (N - 1) + beta N (N - 1)): Gunther, Guerrilla Capacity Planning (2007).

    ``gamma`` is the throughput of one connection, ``alpha`` the share of work that waits for others (contention),
    ``beta`` the cost of keeping each pair consistent (coherency). ``peak_at`` None: the curve has no peak.
    ``left_out_error``: see ``fit_usl``.
    """

    gamma: float
    alpha: float
    beta: float
    peak_at: float | None
    peak: float | None
    relative_error: float
    """Root of the mean squared relative difference to the points."""
    left_out_error: float | None

    def throughput(self, connections: float) -> float:
        """Return the throughput per second with so many connections."""
        return _usl(self.gamma, self.alpha, self.beta, connections)


@dataclass(frozen=True, slots=True)
class ClosedFit:
    """The machine repair model (``queueing.closed_throughput``). ``work`` and ``outside`` are seconds."""

    cores: int
    work: float
    outside: float
    relative_error: float
    left_out_error: float | None

    def throughput(self, connections: int) -> float:
        """Return the throughput per second with so many connections."""
        return closed_throughput(connections, self.cores, self.work, self.outside)


def fit_usl(points: Sequence[Point], *, residual: Residual = "log") -> UslFit | None:
    """Fit the law to ``points``; None with fewer than three different numbers of connections, or no throughput.

    Contention and coherency are kept at 0 or above (negative values would mean points above the straight line).
    ``left_out_error`` is the root of the mean squared relative error with which the other points predict each point; it
    needs five points.
    """
    usable = _select_usable(points)
    if usable is None:
        return None
    gamma, alpha, beta = _fit_usl(usable, residual)
    peak_at = sqrt((1 - alpha) / beta) if beta > 0 and alpha < 1 else None
    return UslFit(
        gamma=gamma,
        alpha=alpha,
        beta=beta,
        peak_at=peak_at,
        peak=None if peak_at is None else _usl(gamma, alpha, beta, peak_at),
        relative_error=_relative_error(usable, lambda n: _usl(gamma, alpha, beta, n)),
        left_out_error=_estimate_left_out_error(usable, lambda rest: _fit_usl_curve(rest, residual)),
    )


def fit_closed(points: Sequence[Point], cores: int | None = None) -> ClosedFit | None:
    """Fit the closed loop to ``points`` in relative terms; ``cores`` None: the number that fits best.

    None with fewer than three different numbers of connections. The model has no peak: leave out points after a peak.
    """
    usable = _select_usable(points)
    if usable is None:
        return None
    counts = [cores] if cores is not None else _list_possible_cores(usable)
    # The start values alone show which numbers of cores are worth a fit, and a fit costs far more.
    likely = sorted(counts, key=lambda count: _sum_of_squares(usable, count, *_guess_closed(usable, count)))[:3]
    fits = [(count, *_fit_closed(usable, count)) for count in likely]
    best = min(fits, key=lambda fit: fit[3])
    count, work, outside, _ = best
    return ClosedFit(
        cores=count,
        work=work,
        outside=outside,
        relative_error=_relative_error(usable, lambda n: closed_throughput(round(n), count, work, outside)),
        left_out_error=_estimate_left_out_error(usable, lambda rest: _fit_closed_curve(rest, count)),
    )


def _select_usable(points: Sequence[Point]) -> list[Point] | None:
    usable = [(n, x) for n, x in points if n >= 1 and x > 0]
    return usable if len({n for n, _ in usable}) >= FEWEST_POINTS else None


def _usl(gamma: float, alpha: float, beta: float, n: float) -> float:
    return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def _make_residuals(points: Sequence[Point], residual: Residual) -> Callable[[Sequence[float]], list[float]]:
    if residual == "log":
        return lambda at: [log(_usl(at[0], at[1], at[2], n) / x) for n, x in points]
    scale = max(x for _, x in points)
    return lambda at: [(_usl(at[0], at[1], at[2], n) - x) / scale for n, x in points]


def _fit_usl(points: Sequence[Point], residual: Residual) -> tuple[float, float, float]:
    start = _guess_usl(points)
    at, _ = minimize(_make_residuals(points, residual), start, (1e-9 * start[0], 0.0, 0.0))
    return at[0], at[1], at[2]


def _guess_usl(points: Sequence[Point]) -> tuple[float, float, float]:
    """Guess start values by linear least squares of N / X on 1, N - 1 and N (N - 1), relative.

    Terms that would be negative are left out.
    """
    best = (max(x / n for n, x in points), 0.0, 0.0)
    for terms in ((0, 1, 2), (0, 1), (0, 2)):
        rows = [([1.0, n - 1, n * (n - 1)], n / x) for n, x in points]
        normal = [[fsum(row[i] * row[j] / y**2 for row, y in rows) for j in terms] for i in terms]
        found = solve(normal, [fsum(row[i] / y for row, y in rows) for i in terms])
        if found is not None and found[0] > 0 and all(value >= 0 for value in found):
            parts = dict(zip(terms, found, strict=True))
            return 1 / parts[0], parts.get(1, 0.0) / parts[0], parts.get(2, 0.0) / parts[0]
    return best


def _fit_usl_curve(points: Sequence[Point], residual: Residual) -> Callable[[float], float]:
    gamma, alpha, beta = _fit_usl(points, residual)
    return lambda n: _usl(gamma, alpha, beta, n)


def _list_possible_cores(points: Sequence[Point]) -> list[int]:
    """List numbers of cores up to the number of connections, doubling with one step between."""
    most = max(n for n, _ in points)
    counts, count = [], 1.0
    while count <= most:
        counts.append(round(count))
        count *= 1.5 if count >= 2 else 2
    return sorted(set(counts))


def _fit_closed(points: Sequence[Point], cores: int) -> tuple[float, float, float]:
    """Return work, outside, and the sum of squared relative differences. Fitted as logarithms, so both stay
    positive.
    """
    work, outside = _guess_closed(points, cores)

    def residuals(at: Sequence[float]) -> list[float]:
        return [log(closed_throughput(round(n), cores, _bound_time(at[0]), _bound_time(at[1])) / x) for n, x in points]

    at, left = minimize(residuals, (log(work), log(outside)), (-inf, -inf))
    return _bound_time(at[0]), _bound_time(at[1]), left


def _bound_time(logarithm: float) -> float:
    """Return seconds from a logarithm, limited so that a large step of a fit stays a number."""
    return exp(min(max(logarithm, -50.0), 50.0))


def _guess_closed(points: Sequence[Point], cores: int) -> tuple[float, float]:
    """Guess work from the ceiling, slightly above the best point, and outside from the steepest point."""
    work = cores / (1.02 * max(x for _, x in points))
    return work, max(1 / max(x / n for n, x in points) - work, 0.02 * work)


def _sum_of_squares(points: Sequence[Point], cores: int, work: float, outside: float) -> float:
    return fsum(log(closed_throughput(round(n), cores, work, outside) / x) ** 2 for n, x in points)


def _fit_closed_curve(points: Sequence[Point], cores: int) -> Callable[[float], float]:
    work, outside, _ = _fit_closed(points, cores)
    return lambda n: closed_throughput(round(n), cores, work, outside)


def _relative_error(points: Sequence[Point], curve: Callable[[float], float]) -> float:
    return sqrt(fsum((curve(n) / x - 1) ** 2 for n, x in points) / len(points))


def _estimate_left_out_error(
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
