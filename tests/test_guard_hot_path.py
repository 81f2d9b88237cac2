"""The compiled hot path of the guard against the plain one: the same records after the same random histories."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poolctl.guard import compiled

ROOT = Path(__file__).parents[1]

HISTORIES = """
import asyncio, gc, json, random, sys, threading
from poolctl.guard.call_sites import all_sites
from poolctl.guard.compiled import COMPILED
from poolctl.guard.recorder import RECORDER as recorder

class Target:
    pass

know_pool = lambda target: None if target is unwatched else recorder.add_pool(target, "library", "pool", 3)
unwatched, targets = Target(), [Target(), Target(), Target()]
targets.pop()  # its id may be the next one's
full = []

def acquire(target, depth):
    # As a hook does: a line that calls C code has two offsets, before and after the interpreter adapts itself to it.
    return recorder.ask_for(target, know_pool, sys._getframe(depth))

def release(connection):
    return recorder.release(connection)

class Program:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.connections = [Target() for _ in range(4)]
        self.said = []
        self.held = []

    def here(self):
        return acquire(self.random.choice(targets), 1)

    def there(self):
        return acquire(self.random.choice(targets), 2)

    def step(self):
        kind = self.random.randrange(12)
        free = [one for one in self.connections if recorder.ledger.find_hold(id(one)) is None]
        if kind < 4 and free:
            hold = self.here() if kind % 2 else self.there()
            if kind == 1:
                recorder.release(self.random.choice(self.connections))
                taken = self.random.choice(free)
                target = self.random.choice([*targets, unwatched])
                self.said.append(recorder.take(target, taken, know_pool, sys._getframe()))
                recorder.give_up(hold)
            elif kind == 3 and self.random.random() < 0.3:
                recorder.give_up(hold, event="timed-out")
            else:
                # One that is still out came back in a way that the guard does not see.
                recorder.grant(hold, self.random.choice(self.connections if self.random.random() < 0.1 else free))
        elif kind < 8:
            connection = self.random.choice(self.connections)
            hold = release(connection)
            self.said.append(hold is None)
            if hold is None:
                recorder.release_again(connection, sys._getframe())
            elif kind == 7 and self.random.random() < 0.3:
                recorder.restore(hold, ValueError())
        elif kind == 8:
            self.connections[self.random.randrange(4)] = Target()
        elif kind == 9:
            recorder.owner = self.random.choice(["test", None])
        elif kind == 10:
            self.said.append(acquire(unwatched, 1) is None)
        elif self.random.random() < 0.2:
            recorder.fork()

    def run(self, count=60):
        for _ in range(count):
            self.step()

    async def run_as_task(self):
        for _ in range(30):
            self.step()
            await asyncio.sleep(0)

def place(site):
    return [[frame.line, frame.function] for frame in site.frames]

def name(hold):
    if hold is None:
        return None
    return [place(hold.site), hold.actor.kind, hold.owner, hold.is_out, hold.acquired_at is not None, name(hold.below)]

def picture():
    ledger = recorder.ledger
    return {
        "pools": [[p.released, p.peak, p.lost, p.timed_out, p.out, p.inherited, p.use_time >= 0 <= p.wait_time]
                  for p in recorder.all_pools()],
        "latest": [name(hold) for hold in ledger.latest.values()],
        "sites": sorted([place(s), s.released, s.collected, s.late, s.longest > 0] for s in all_sites()),
        "incidents": sorted([i.event, place(i.site), i.count, place(i.at) if i.at else None]
                            for i in ledger.incidents.values()),
        "nestings": sorted([place(n.outer), place(n.inner), n.count, n.jammed] for n in ledger.nestings.values()),
        "late": len(ledger.late),
        "full": len(full),
        "complaints": recorder.complaints,
    }

pictures = []
for seed in range(60):
    program = Program(seed)
    if seed % 10 == 7:
        recorder.set_threshold(1e-9)
    if seed % 10 == 8:
        recorder.set_threshold(60.0)
        recorder.on_exhausted = lambda pool, hold: full.append(hold.site)
    if seed == 20:
        recorder.see_asyncio()
    if seed > 20 and seed % 3 == 0:
        async def both():
            other = Program(-seed)
            await asyncio.gather(program.run_as_task(), other.run_as_task())
            program.said += other.said
        asyncio.run(both())
    elif seed % 3 == 1:
        thread = threading.Thread(target=program.run)
        thread.start()
        thread.join()
    program.run(20)
    gc.collect()
    pictures.append([program.said, picture()])
    del program
json.dump([COMPILED is not None, pictures], sys.stdout)
"""


def run_histories(path: str) -> tuple[bool, Any]:
    finished = subprocess.run(
        [sys.executable, "-c", HISTORIES],
        env={**os.environ, compiled.SWITCH: path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not finished.stderr, finished.stderr
    is_compiled, pictures = json.loads(finished.stdout)
    return is_compiled, pictures


def is_built() -> bool:
    return any(Path(compiled.__file__).parent.glob("_hot_path.*[!c]"))


@pytest.mark.skipif(not is_built(), reason="the compiled hot path is not built")
def test_both_paths_write_the_same_records() -> None:
    is_compiled, fast = run_histories("")
    is_plain, slow = run_histories("plain")

    assert is_compiled
    assert not is_plain
    for seed, (one, other) in enumerate(zip(fast, slow, strict=True)):
        assert one == other, f"seed {seed}"
    for kind in ("incidents", "nestings", "late", "full"):
        assert any(picture[kind] for _, picture in fast), kind
