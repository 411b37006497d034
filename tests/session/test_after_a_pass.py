"""A run that was saved at the last batch of a pass does what its script does after a pass."""

import pytest
import torch
from torch.utils.data import DataLoader

import stagegraph as sg
from tests.session.training import Net

GRAPH = sg.load("""
stagegraph: 1
name: by the pass
metrics: {val_loss: {goal: minimize}}
initial: train
stages:
  train: {kind: train, duration: 20 steps, next: done}
  done: {kind: final}
waive: {no-monitor: short and watched}
""")
ITEMS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


class Died(Exception):
    pass


def train(folder, *, best=None, crash=None):
    torch.manual_seed(2)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    loader = DataLoader(ITEMS, 4, sampler=sg.SeededSampler(ITEMS, seed=0))
    options = sg.Checkpoints(every="1 epoch", best=best, background=False)
    done = []
    with sg.Engine(
        GRAPH,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        run=folder,
        checkpoints=options,
    ) as engine:
        engine.resume()
        for epoch in engine.epochs(loader):
            for x in epoch:
                model(x).pow(2).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                engine.step()
                if engine.progress.step == crash:
                    raise Died
            scheduler.step()
            done.append((epoch.index, scheduler.last_epoch))
            if best is not None:
                engine.observe(val_loss=1 / scheduler.last_epoch)
    return done, [parameter.tolist() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("best", "again"),
    [
        pytest.param(None, [(1, 2), (2, 3), (3, 4), (4, 5)], id="saved before it"),
        pytest.param("val_loss", [(2, 3), (3, 4), (4, 5)], id="saved after it"),
    ],
)
def test_what_follows_a_pass_is_done_once(tmp_path, best, again):
    whole, weights = train(tmp_path / "whole", best=best)
    assert whole == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    with pytest.raises(Died):
        train(tmp_path / "cut", best=best, crash=10)
    assert train(tmp_path / "cut", best=best) == (again, weights)


def by_hand(folder, *, until, evaluates=False):
    """A loop that does not go over ``engine.epochs``."""
    model = Net(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with sg.Engine(GRAPH, model=model, optimizer=optimizer, run=folder) as engine:
        engine.resume()
        while engine.progress.step < until:
            model(ITEMS[:4]).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step()
        model.train(not evaluates)
        engine.finish()


def test_a_position_that_nobody_told_is_missed_aloud(tmp_path, caplog):
    by_hand(tmp_path, until=4)
    assert not caplog.text
    by_hand(tmp_path, until=5)
    assert "does not know which batches were used: the loop did not go over" in caplog.text


def test_a_model_that_comes_back_in_eval_mode_is_told(tmp_path):
    by_hand(tmp_path, until=4, evaluates=True)
    with pytest.warns(UserWarning, match="made while the model was in eval mode, and so it is aga"):
        by_hand(tmp_path, until=5)


def test_a_run_over_epochs_is_resumed_without_a_warning(tmp_path, recwarn, caplog):
    with pytest.raises(Died):
        train(tmp_path, crash=10)
    train(tmp_path)
    assert not recwarn
    assert not caplog.text


def test_a_pass_that_is_left_early_is_followed_by_the_next_one():
    items = list(range(20))
    sampler = sg.SeededSampler(items, seed=2)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler)[:4])
    model = torch.nn.Linear(1, 1)
    graph = {
        "stagegraph": 1,
        "name": "short passes",
        "initial": "a",
        "stages": {
            "a": {"kind": "train", "duration": "6 steps", "next": "b"},
            "b": {"kind": "final"},
        },
    }
    engine = sg.Engine(sg.load(graph), model=model)
    loader = torch.utils.data.DataLoader(items, 2, sampler=sampler)
    seen = {}
    for epoch in engine.epochs(loader):
        for number, batch in enumerate(epoch):
            seen.setdefault(epoch.index, []).extend(batch.tolist())
            engine.step()
            if number == 1:
                break
    engine.close()
    assert seen == dict(enumerate(orders))
