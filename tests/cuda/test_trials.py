"""A trial on a device: the same batches and the same dropout masks for each option."""

import torch

from tests.session.test_trials import Loop, equal


def test_each_option_begins_with_the_same_batches_and_masks(device, same_bits):
    loop, masks = Loop(device=device), []

    def look(_module, _args, output):
        trial = loop.engine._core.state.trial
        if loop.model.training and trial is not None:
            masks.append((trial.option, loop.data.at, (output == 0).tolist()))

    loop.model.blocks[0].drop.register_forward_hook(look)
    loop.go()
    batches, first = {}, {}
    for option, at, mask in masks:
        batches.setdefault(option, []).append(at)
        first.setdefault(option, mask)
    assert list(first) == [None, "deep", "thin"]
    assert any(map(any, first[None])) and not all(map(all, first[None]))
    assert first["deep"] == first["thin"] == first[None]
    assert batches["deep"] == batches["thin"] == batches[None]
    assert loop.engine.ended == "final"


def test_between_options_everything_returns(device, same_bits):
    loop = Loop(device=device).go(4)
    x, y = loop.data.next()
    (loop.model(x) - y).square().mean().backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    before = loop.numbers()
    loop.engine.step()
    assert loop.engine.stages == {"main": "try"}
    for new in (["blocks.2", "blocks.3"], ["blocks.2"]):
        loop.go(6)
        weights, moments, random, at = loop.numbers()
        old = {k: v for k, v in weights.items() if not k.startswith(tuple(new))}
        assert len(loop.model.blocks) == 2 + len(new)
        assert equal(old, before[0]) and equal(moments, before[1])
        assert equal(random, before[2]) and at == before[3]
    assert all(p.device.type == device.type for p in loop.model.parameters())
    if device.type == "cuda":
        assert len(before[2]) == 1 + torch.cuda.device_count()
