"""A plain loop with all that loops have, compiled or not: a run that grows resumes bit for bit."""

import shutil

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import stagegraph as sg
from tests.cuda.continuing import GROWING
from tests.cuda.placing import CUDA
from tests.cuda.test_hosts import told
from tests.session.test_trials import Order, X, Y, equal
from tests.session.training import PROBE, Net, moments, weights

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("same_bits")]

MICRO = 2
"""Micro-batches of an update."""
OVERFLOWS = (5, 17)
"""Micro-batches that overflow: in the third update, which is before the growth, and the ninth."""


class Full:
    """Accumulation, autocast, a gradient scaler, clipping, a schedule, averaged weights.

    Args:
        device: Where.
        backend: What compiles the model; ``None``: it runs as it is written.
        run: The folder of the run, new or to go on in.
    """

    def __init__(self, device, backend, run):
        torch.compiler.reset()  # a new process has compiled nothing
        torch.manual_seed(5)
        self.device = device
        self.half = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.model = Net(dropout=0.2).to(device)
        self.net = self.model if backend is None else torch.compile(self.model, backend=backend)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + step / 10))
        self.scaler = torch.amp.GradScaler(device.type, init_scale=256.0, growth_interval=3)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.data, self.seen = Order(device), []
        self.engine = sg.Engine(
            sg.load(GROWING),
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            ema=self.averaged,
            data=self.data,
            probe=PROBE.to(device),
            run=run,
            checkpoints=sg.Checkpoints(every="1 step"),
        )
        torch.rand(7, device=device)  # what is drawn before does not count
        self.engine.resume()

    def update(self):
        total = 0.0
        for _ in range(MICRO):
            x, y = self.data.next()
            with torch.autocast(self.device.type, self.half):
                out = self.net(x)
            assert out.dtype == self.half
            loss = self.engine.loss((out.float() - y).square().mean(), outputs=out, inputs=x)
            total += loss.item()
            if self.data.at in OVERFLOWS:
                loss = loss * float("inf")
            self.scaler.scale(loss / MICRO).backward()
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), 0.5)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() >= scale:
            self.scheduler.step()
            self.averaged.update_parameters(self.model)
        self.engine.step(loss=total / MICRO, samples=4 * MICRO)
        if self.engine.wants_evaluation:
            self.engine.observe(val_loss=self.evaluate())
        self.seen.append((self.data.at, total, self.scaler.get_scale(), len(self.model.blocks)))

    @torch.no_grad()
    def evaluate(self):
        """Of the averaged weights, as they are written: a batch of another size compiles anew."""
        self.averaged.eval()
        return (self.averaged(X.to(self.device)) - Y.to(self.device)).square().mean()

    def go(self, updates=100):
        for _ in range(updates):
            if self.engine.done:
                break
            self.update()
        self.engine.finish()
        self.engine.close()
        return self

    def numbers(self):
        numbers = [torch.get_rng_state()]
        if self.device.type == "cuda":
            numbers.append(torch.cuda.get_rng_state(self.device))
        return {
            "weights": weights(self.model),
            "moments": moments(self.model, self.optimizer),
            "averaged": weights(self.averaged),
            "scaler": self.scaler.state_dict(),
            "scheduler": self.scheduler.state_dict()["last_epoch"],
            "random": numbers,
            "at": self.data.at,
        }


def case(device, backend, *cuts, marks=()):
    name = "-".join([device, backend or "plain", *map(str, cuts)])
    return pytest.param(torch.device(device), backend, cuts, id=name, marks=marks)


# It grows in the fourth update, and alpha rises up to the eighth.
@pytest.mark.parametrize(
    ("device", "backend", "cuts"),
    [
        case("cpu", None, 2, 6, 11),
        case("cpu", "aot_eager", 2, 6, 11, marks=pytest.mark.slow),
        case("cuda", None, 2, 6, 11, marks=CUDA),
        case("cuda", "aot_eager", 2, 6, 11, marks=CUDA),
        *(case("cuda", "inductor", cut, marks=CUDA) for cut in (2, 6, 11)),
    ],
)
def test_it_resumes_before_and_in_and_after_a_growth(tmp_path, device, backend, cuts):
    if backend == "inductor" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("inductor needs a C compiler")
    whole = Full(device, backend, tmp_path / "whole").go()
    assert whole.engine.ended == "final" and whole.engine.progress.step == 11
    assert len(whole.seen) == 13
    assert [blocks for *_, blocks in whole.seen][:4] == [2, 2, 2, 3]
    expected, records = whole.numbers(), told(tmp_path / "whole")
    for cut in cuts:
        begun = Full(device, backend, tmp_path / f"cut-{cut}").go(cut)
        again = Full(device, backend, tmp_path / f"cut-{cut}").go()
        assert begun.seen + again.seen == whole.seen, cut
        assert len(again.seen) == 13 - cut
        found = again.numbers()
        assert [key for key in expected if not equal(found[key], expected[key])] == [], cut
        assert told(tmp_path / f"cut-{cut}") == records, cut
