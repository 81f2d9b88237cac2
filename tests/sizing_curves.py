"""Published and measured throughput curves, (connections, throughput), and what is known of the machines."""

from bisect import bisect
from collections.abc import Sequence

from poolctl.sizing.sweep_table import SweepPoint, average_points

Curve = list[tuple[int, float]]

SPEC_SDM91: Curve = [(1, 64.9), (18, 995.9), (36, 1652.4), (72, 1853.2), (108, 1828.9), (144, 1775.0), (216, 1702.2)]
"""SPEC SDM 91, as in R's usl package."""
RAY_TRACER: Curve = [
    *[(1, 20), (4, 78), (8, 130), (12, 170), (16, 190), (20, 200), (24, 210), (28, 230), (32, 260), (48, 280)],
    (64, 310),
]
SYNTHETIC: Curve = [(1, 1), (2, 1.8868), (4, 3.0769), (6, 3.5294), (8, 3.5398), (10, 3.3557)]
"""alpha 0.02, beta 0.02, gamma 1."""
CISCO: Curve = list(
    enumerate(
        [
            *[955.16, 1878.91, 2688.01, 3548.68, 4315.54, 5130.43, 5931.37, 6531.08, 7219.8, 7867.61, 8278.71],
            *[8646.7, 9047.84, 9426.55, 9645.37, 9897.24, 10097.6, 10240.5, 10532.39, 10798.52, 11151.43, 11518.63],
            *[11806, 12089.37, 12075.41, 12177.29, 12211.41, 12158.93, 12155.27, 12118.04, 12140.4, 12074.39],
        ],
        start=1,
    )
)
"""usl4j's test data, from Schwartz, Practical Scalability Analysis."""
RDS: Curve = [(2, 356.81), (4, 676.74), (8, 1357.28), (16, 2204.81), (32, 2421.58)]
"""PostgreSQL 18 on db.t4g.micro, over the network (khanh1998.github.io)."""
RDS_LATENCY = [0.005605, 0.005908, 0.005891, 0.007248, 0.013197]
TPC_B: Curve = [
    *[(8, 2730), (12, 3285), (16, 3604), (20, 3794), (24, 3893), (32, 4001), (40, 3878), (50, 3727), (64, 3407)],
    *[(80, 2841), (100, 2744)],
]
"""PostgreSQL 16 on r8g.large, simple protocol."""
TPC_B_PREPARED: Curve = [(24, 5248), (28, 5254), (32, 5332), (50, 5172)]
THINK: Curve = [
    *[(1, 179), (2, 349), (4, 696), (6, 1007), (8, 1375), (10, 1666), (12, 1978), (16, 2437), (20, 3308), (24, 3934)],
    *[(32, 5306), (48, 6849), (64, 7356), (96, 5378), (96, 6131)],
]
"""5 ms of sleep inside the transaction, own measurement; the last point twice."""
HOT_ROWS: Curve = [
    *[(1, 1401), (2, 6385), (3, 6694), (12, 6815), (16, 6617), (24, 5603), (32, 5278), (64, 3364), (128, 1574)],
]
"""TPC-B with 20 hot rows, own measurement."""

CURVES: dict[str, Curve] = {
    "specsdm91": SPEC_SDM91,
    "raytracer": RAY_TRACER,
    "synthetic": SYNTHETIC,
    "cisco": CISCO,
    "rds_simple": RDS,
    "r8g_simple": TPC_B,
    "r8g_prepared": TPC_B_PREPARED,
    "local_think": THINK,
    "local_tpcb": HOT_ROWS,
}
TWO_CORES = ("rds_simple", "r8g_simple", "r8g_prepared", "local_think", "local_tpcb")


def points(curve: Sequence[tuple[int, float]]) -> tuple[SweepPoint, ...]:
    return tuple(SweepPoint(connections, float(throughput)) for connections, throughput in curve)


def fewest(curve: Sequence[tuple[int, float]], share: float = 0.97) -> int:
    """Swept connections that reach ``share`` of the best mean."""
    means = average_points(points(curve))
    best = max(point.throughput for point in means)
    return next(point.connections for point in means if point.throughput >= share * best)


def share_of_best(curve: Sequence[tuple[int, float]], connections: float) -> float:
    """Throughput with so many connections, between points along straight lines, over the best."""
    means = average_points(points(curve))
    best = max(point.throughput for point in means)
    counts = [point.connections for point in means]
    at = bisect(counts, connections)
    if at == 0:
        return means[0].throughput * connections / counts[0] / best
    if at == len(counts):
        return means[-1].throughput / best
    left, right = means[at - 1], means[at]
    part = (connections - left.connections) / (right.connections - left.connections)
    return (left.throughput + part * (right.throughput - left.throughput)) / best
