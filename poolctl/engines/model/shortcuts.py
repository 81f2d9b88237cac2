"""What the hot loop has to know of each pod, as lists of plain numbers."""

from math import inf

from poolctl.engines.model.instances import Instances
from poolctl.engines.model.plan import EXPONENTIAL, Part, Pod
from poolctl.scenario import Scenario

MANY = 1 << 29
"""More connections than there are: limits as integers compare faster."""


class Shortcuts(Instances):
    __slots__ = (
        "p_deadlines",
        "p_end",
        "p_ends_at",
        "p_hold",
        "p_keeps",
        "p_mean",
        "p_most",
        "p_order",
        "p_patience",
        "p_queues",
        "p_tallies",
        "p_uses",
        "p_waits",
    )

    inlines = True

    def __init__(self, scenario: Scenario, parts: list[Part], pods: list[Pod]) -> None:
        super().__init__(scenario, parts, pods)
        of = self.p_part
        self.p_simple = [self.inlines and part.is_simple and not (part.rate and part.load.requests) for part in of]
        self.p_ends_at = [pod.ends_at for pod in pods]
        self.p_most = [int(min(part.max_open, MANY)) for part in of]
        self.p_keeps = [int(min(part.keeps, MANY)) for part in of]
        self.p_end = [-1 if part.rules.idle_order == "lifo" else 0 for part in of]
        self.p_order = [
            order if part.rules.waiter_order == "random" else None
            for part, order in zip(of, self.p_random, strict=True)
        ]
        self.p_queues = [part.rules.waiter_order != "none" and not part.max_queue for part in of]
        for p, part in enumerate(of):
            if part.rules.idle_closing != "go" or self.shortest_life(part) == inf:
                self.p_clean_at[p] = -1.0
        self.p_hold = [part.hold for part in of]
        self.p_mean = [part.hold[1] if part.hold[0] == EXPONENTIAL else -1.0 for part in of]
        self.p_patience = [inf if part.patience is None else part.patience for part in of]
        self.p_deadlines = [self.deadlines[pod.part] for pod in pods]
        self.p_tallies = [self.tallies[number] for number in self.p_tally]
        self.p_waits = [self.waits[number] for number in self.p_tally]
        self.p_uses = [self.uses[number] for number in self.p_tally]
