"""Mixed precision with a gradient scaler: skipped updates are none, and a rollback knows it all."""

import pytest
import torch
from torch.optim import AdamW

from tests.cuda.test_optimizer_state import COPIES
from tests.session.test_returning import ROLL_BACK, worse_from
from tests.session.test_warmups import alpha_of
from tests.session.training import WIDTH, Training, rates_in_step

INFINITE = float("inf")


class Scaled(Training):
    """Training under autocast (float16 on CUDA, bfloat16 else) with a scaler and bad updates.

    Args:
        document: The graph.
        device: Where the model is.
        skipped: The numbers of the calls of ``update`` whose loss is infinite.
        kind: How AdamW steps.
        more: Further arguments of the training.
    """

    def __init__(self, document, device, *, skipped=(), kind="foreach", **more):
        self.scaler = torch.amp.GradScaler(device.type, init_scale=64.0, growth_interval=3)
        self.skipped, self.calls = frozenset(skipped), 0
        self.half = torch.float16 if device.type == "cuda" else torch.bfloat16
        super().__init__(
            document,
            device=device,
            optimizer=lambda p, lr: AdamW(p, lr=lr / 10, **{kind: True}),
            scaler=self.scaler,
            **more,
        )

    def update(self):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(self.updates))
        x = x.to(self.device)
        with torch.autocast(self.device.type, self.half):
            out = self.model(x)
        assert out.dtype == self.half
        loss = self.engine.loss((out.float() - x.sum(1, keepdim=True)).pow(2).mean())
        bad = self.calls in self.skipped
        self.scaler.scale(loss * (INFINITE if bad else 1.0)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.calls += 1
        if not bad:
            self.scheduler.step()
            self.updates += 1
        return loss

    def tick(self):
        before = self.engine.progress.step
        self.engine.step(loss=self.update(), samples=5)
        if self.engine.progress.step > before:
            self.observe()


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_skipped_updates_move_no_ramp(device, kind):
    """One is skipped in each stage; the ramps go on by the updates that were made."""
    skipped = {1, 4, 5, 8, 12}
    training = Scaled(COPIES, device, skipped=skipped, kind=kind)
    rates = rates_in_step(training)
    x = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH).to(device)
    seen = []
    while not training.engine.done:
        held = [p.detach().clone() for p in training.model.parameters()]
        bad = training.calls in skipped
        training.tick()
        assert training.engine.progress.step == training.updates
        if bad:
            assert all(map(torch.equal, held, training.model.parameters()))
        if training.stage == "warmup":
            seen.append(alpha_of(training.model.blocks[3], x))
    assert training.calls == training.updates + len(skipped) == 16
    made = list(dict.fromkeys(round(alpha, 3) for alpha in seen))
    assert made == [0.0, 0.25, 0.5, 0.75]
    shares = [
        round(rate["blocks.3.up.weight"] / rate["blocks.0.up.weight"], 6)
        for rate in rates
        if "blocks.3.up.weight" in rate
    ]
    assert list(dict.fromkeys(shares)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(p.isfinite().all() for p in training.model.parameters())


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_a_rollback_brings_the_scaler_back(device, kind, same_bits):
    document = ROLL_BACK.format(how="data: skip, lr_factor: 0.5")
    training = Scaled(document, device, skipped={2}, kind=kind, val_loss=worse_from(8), dropout=0.3)
    training.go(5)
    training.engine.step(loss=training.update())
    weights, scaler = training.weights(), training.scaler.state_dict()
    training.observe()
    assert len(training.model.blocks) == 4
    changed = []
    while not training.records.of("roll_back"):
        changed.append(training.scaler.state_dict() != scaler)
        training.tick()
    assert any(changed), "the scaler stood still: nothing is shown"
    assert training.scaler.state_dict() == scaler
    assert training.weights() == weights
    scale = training.scaler.get_scale()
    training.tick()
    assert training.scaler.get_scale() in (scale, scale * 2)
    assert training.engine.progress.step == 6
