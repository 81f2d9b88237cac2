"""Recommended sizes against an exhaustive sweep on the throw-away server, beside the rules of thumb.

    python tests/benchmarks/bench_recommend.py [MIX ...] [--windows 4] [--seconds 3] [--most 192]

For each built-in load: every size of a fine grid is measured in interleaved windows, and the best of them is the
measure; since the highest of many noisy means is too high, it is measured once more, in turns with the recommended
size. ``poolctl recommend --sweep`` answers from a sweep of its own. Goal: at least 0.97 of the best throughput with
at most 1.3 times the fewest connections that reach it. Run it on a quiet machine: what others use is told.
"""

import argparse
import os
import statistics
import time
from random import Random

from poolctl.engines.pgbench import MIXES, Pgbench, get_mix
from poolctl.engines.throughput import run_sweep, start_sweep_server
from poolctl.sizing.figures import Figures, given
from poolctl.sizing.knee import choose_next_round
from poolctl.sizing.recommend import recommend
from poolctl.sizing.sweep_table import SweepPoint

WORKERS = 48
"""What "as many as workers" means here: the threads of a usual fleet."""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("mixes", nargs="*", default=list(MIXES))
    arguments.add_argument("--windows", type=int, default=4)
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--most", type=int, default=192)
    arguments.add_argument("--budget", type=float, default=180.0)
    chosen = arguments.parse_args()
    for name in chosen.mixes:
        bench(name, chosen)


def bench(name: str, chosen: argparse.Namespace) -> None:
    with start_sweep_server(limit=chosen.most) as ground:
        random = Random(1)
        began = time.monotonic()
        found = run_sweep(
            ground,
            get_mix(name),
            lambda measured: choose_next_round(measured, ground.limit, random),
            seed=1,
            budget=chosen.budget,
            stop=lambda: False,
        )
        took = time.monotonic() - began
        points = tuple(SweepPoint(*row) for row in found.table)
        answer = recommend(Figures(sweep=points, instances=given(1), surge=given(0), terminating=given(0)))
        recommended = answer.recommendation.max_open
        cores = os.cpu_count() or 1
        rules = {"2 x cores + 1": 2 * cores + 1, "4 x cores": 4 * cores, "10": 10, "workers": WORKERS}
        sizes = sorted({*grid(chosen.most), *rules.values(), *([recommended] if recommended else [])})
        assert ground.sandbox is not None
        load = Pgbench(
            ground.conninfo, get_mix(name), prepared=True, seed=7, server_cpu=ground.sandbox.measure_cpu_time
        )
        others: list[float] = []

        def in_turns(sizes: list[int], windows: int) -> dict[int, float]:
            rates: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(windows):
                for size in random.sample(sizes, len(sizes)):
                    window = load.measure(size, chosen.seconds, stop=lambda: False)
                    assert window is not None
                    rates[size].append(window.throughput)
                    others.append(window.other_cpu)
            return {size: statistics.fmean(values) for size, values in rates.items()}

        means = in_turns(sizes, chosen.windows)
        if recommended is not None:
            duel = in_turns(sorted({max(means, key=lambda size: means[size]), recommended}), 2 * chosen.windows)
            print(f"\n{name}: the best and the recommended size once more, in turns: {shares(duel)}")
    tell(name, means, {"recommended": recommended, **rules}, took, len(found.windows), statistics.median(others))


def shares(means: dict[int, float]) -> str:
    best = max(means.values())
    return ", ".join(f"{size} {mean / best:.2f}" for size, mean in means.items())


def grid(most: int) -> list[int]:
    """Steps of a quarter at most from 4 on: coarser ones could not tell 1.3 times the fewest."""
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224]
    return [size for size in sizes if size <= most]


def tell(
    name: str, means: dict[int, float], picks: dict[str, int | None], took: float, windows: int, others: float
) -> None:
    best = max(means.values())
    fewest = min(size for size, mean in means.items() if mean >= 0.97 * best)
    print(f"{name}: best {best:,.0f}/s, 0.97 of it from {fewest} connections on; others used {others:.2f} cores")
    print(f"  the sweep of recommend took {took:.0f} s, {windows} windows")
    for rule, size in picks.items():
        if size is None:
            print(f"  {rule:14} refused")
            continue
        nearest = min(means, key=lambda known: abs(known - size))
        share = means[nearest] / best
        print(f"  {rule:14} {size:4}  {share:5.2f} of the best, {size / fewest:4.1f} x the fewest")


if __name__ == "__main__":
    main()
