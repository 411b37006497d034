"""A warm-up that is done costs nothing: an update runs the same bytecodes as without it.

Counted, not timed: the same on a busy machine. What is counted is the user's forward, backward and
optimizer step, in which a gate or a hook that was left behind would be run, and the engine's own.
"""

import pytest
import torch
from torch.optim import SGD, AdamW

import stagegraph as sg
from benchmarks.counting import work_of
from tests.session.training import PROBE, Net

REST = "  rest: {kind: consolidate, duration: 1000 steps, next: done}\n  done: {kind: final}\n"
TOP = "stagegraph: 1\nname: work\ninitial: {}\nstages:\n"
GROW = """
  train: {kind: train, duration: 2 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1, how: HOW}], next: NEXT}
"""
WARM_UP = """
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, start: 0.1, over: 3 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 3 steps}
    next: rest
"""
FROZEN = "      - {type: freeze, of: all, but: grown, norms: eval, dropout: eval}\n    next: rest"
WARMED = TOP.format("train") + GROW.replace("NEXT", "warmup") + WARM_UP + REST
COLD = TOP.format("train") + GROW.replace("NEXT", "rest") + REST
NEVER_GROWN = TOP.format("rest") + REST
DONE = 9
"""Updates after which the warm-up is over, with all that is done once."""


class Loop:
    """A plain loop, whose update is counted part by part; without a document nobody watches it."""

    def __init__(self, document, *, depth=2, optimizer=AdamW, how="stack"):
        torch.manual_seed(0)
        self.model = Net(depth=depth, dropout=0.1)
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)
        self.loss = None
        self.engine = None
        if document is not None:
            self.engine = sg.Engine(
                sg.load(document.replace("HOW", how)),
                model=self.model,
                optimizer=self.optimizer,
                probe=PROBE,
            )
            self.engine.start()

    def forward(self):
        self.loss = (self.model(PROBE) - 1).pow(2).mean()

    def backward(self):
        self.loss.backward()

    def tell(self):
        if self.engine is not None:
            self.engine.step(loss=self.loss)

    @property
    def parts(self):
        theirs = [self.forward, self.backward, self.optimizer.step, self.optimizer.zero_grad]
        return [*theirs, self.tell]

    def go(self, updates):
        for _ in range(updates):
            for part in self.parts:
                part()
        return self

    def counted(self, updates=3):
        """Bytecodes and calls of each part, of each update."""
        return [{part.__name__: work_of(part) for part in self.parts} for _ in range(updates)]


def without_ours(counted):
    return [{name: work for name, work in one.items() if name != "tell"} for one in counted]


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
@pytest.mark.parametrize("how", ["stack", "identity"])
@pytest.mark.parametrize("frozen", [False, True], ids=["ramps", "frozen host"])
def test_an_update_after_a_warm_up_runs_what_it_runs_without_one(optimizer, how, frozen):
    text = WARMED.replace("    next: rest", FROZEN) if frozen else WARMED
    warmed = Loop(text, optimizer=optimizer, how=how).go(DONE)
    cold = Loop(COLD, optimizer=optimizer, how=how).go(DONE)
    assert warmed.engine.stages == cold.engine.stages == {"main": "rest"}
    assert len(warmed.model.blocks) == len(cold.model.blocks) == 3
    found = warmed.counted()
    assert found == cold.counted()
    assert found == Loop(NEVER_GROWN, depth=3, optimizer=optimizer).go(DONE).counted()
    alone = Loop(None, depth=3, optimizer=optimizer).go(DONE)
    assert without_ours(found) == without_ours(alone.counted())


def test_while_it_lasts_it_does_cost_or_nothing_would_have_been_counted():
    during = Loop(WARMED).go(3)
    assert during.engine.stages == {"main": "warmup"}
    (found,), (alone,) = during.counted(1), Loop(None, depth=3).go(DONE).counted(1)
    for part in ("forward", "step", "tell"):
        assert found[part].codes > alone[part].codes
        assert found[part].calls > alone[part].calls
    assert found["backward"] == alone["backward"]


def test_a_hook_that_is_left_behind_is_counted():
    """What the comparison would find, at its smallest."""
    loop, found = Loop(None, depth=3).go(DONE), []
    found.append(loop.counted(1)[0])
    handle = loop.model.blocks[2].register_forward_hook(lambda _module, _args, out: out)
    found.append(loop.counted(1)[0])
    handle.remove()
    found.append(loop.counted(1)[0])
    assert found[0] == found[2]
    assert found[1]["forward"].calls > found[0]["forward"].calls
    assert found[1]["forward"].codes > found[0]["forward"].codes
