"""What an accelerator's loop sees of a growth, and what the engine counts."""

import math

import pytest
import torch
from accelerate.utils import compile_regions
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import stagegraph as sg
from stagegraph.errors import ActionError, StageGraphError
from stagegraph.trainers.accelerate import AcceleratedEngine
from tests.trainers.accelerate.small import GROWS, WIDTH, Items, Net, fresh_accelerator

WIDENS = """
{stagegraph: 1, name: widens, initial: small,
 spaces: {tensors: {"blocks.*.up.weight": "mlp _", "blocks.*.up.bias": mlp,
          "blocks.*.down.weight": "_ mlp"}},
 stages: {
   small: {kind: train, duration: 2 steps, next: grow},
   grow: {kind: grow, actions: [{type: widen, space: mlp, add: 7, how: uneven}], next: done},
   done: {kind: final}}}
"""


class Loop:
    """A loop over batches by hand; ``given`` is the accelerator's."""

    def __init__(self, text=GROWS, *, engine=AcceleratedEngine, lr=1e-2, probe=True, **given):
        torch.manual_seed(0)
        self.accelerator = fresh_accelerator(**given)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        prepared = self.accelerator.prepare(model, optimizer, scheduler)
        self.model, self.optimizer, self.scheduler = prepared
        more = (self.accelerator,) if engine is AcceleratedEngine else ()
        self.engine = engine(
            sg.load(text),
            *more,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            probe=(Items(7).rows,) if probe else None,
        )
        self.engine.start()

    def micro(self, x, *, step=True, told=True, **metrics):
        accelerator = self.accelerator
        with accelerator.accumulate(self.model):
            loss = self.model(x).square().mean()
            accelerator.backward(loss)
            if step:
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        if told:
            self.engine.step(loss=loss, samples=len(x), **metrics)
        return loss.item()

    def until_grown(self):
        while len(self.model.blocks) == 2 and not self.engine.done:
            self.micro(torch.randn(4, WIDTH))
            if self.engine.wants_evaluation:
                self.engine.observe(val=1.0)


def test_everything_that_the_accelerator_holds_is_grown():
    loop = Loop(mixed_precision="bf16")
    accelerator, model, optimizer = loop.accelerator, loop.model, loop.optimizer
    forward = vars(model)["forward"]
    loop.until_grown()
    names = [f"blocks.{n}.up.weight" for n in range(3)]
    assert [name for name in model.state_dict() if name.endswith("up.weight")] == names
    assert accelerator._models == [model] and accelerator.unwrap_model(model) is model
    assert accelerator._optimizers == [optimizer]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    # The wrapper that puts the forward under autocast is where it was, and at work.
    assert vars(model)["forward"] is forward
    seen = []
    model.blocks[2].up.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    assert model(torch.randn(2, WIDTH)).dtype == torch.float32
    assert seen == [torch.bfloat16]


def test_the_norm_is_clipped_over_what_is_new_too():
    loop = Loop(GROWS.replace("over: 4 steps", "over: 2 steps"))
    while loop.engine.stages["main"] != "large":  # where nothing is blended in any more
        loop.micro(torch.randn(4, WIDTH), val=1.0)
    loop.accelerator.backward(loop.model(torch.randn(4, WIDTH)).square().mean())
    assert float(loop.model.blocks[2].down.weight.grad.abs().sum()) > 0
    by_hand = math.sqrt(sum(float(p.grad.square().sum()) for p in loop.model.parameters()))
    assert float(loop.accelerator.clip_grad_norm_(loop.model.parameters(), 1e-3)) == pytest.approx(
        by_hand
    )


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_saved_model_has_what_is_new(tmp_path, precision):
    loop = Loop(mixed_precision=precision)
    loop.until_grown()
    loop.accelerator.save_model(loop.model, str(tmp_path))
    saved, model = load_file(tmp_path / "model.safetensors"), loop.model.state_dict()
    assert saved.keys() == model.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.items())


def test_growth_is_measured_without_autocast():
    loop = Loop(WIDENS, mixed_precision="bf16")
    while not loop.engine.done:
        loop.micro(torch.randn(4, WIDTH))
    assert loop.model.blocks[0].up.weight.shape == (19, WIDTH)
    # An engine that does not know of the accelerator sees roundings, and takes them for harm.
    plain = Loop(WIDENS, engine=sg.Engine, mixed_precision="bf16")
    plain.micro(torch.randn(4, WIDTH))
    with pytest.raises(ActionError, match="was to keep the function"):
        plain.micro(torch.randn(4, WIDTH))


def test_a_model_in_half_precision_is_measured_as_it_is():
    torch.manual_seed(0)
    accelerator = fresh_accelerator(mixed_precision="bf16")
    model = Net().to(torch.bfloat16)
    for block in model.blocks:
        block.norm = nn.Identity()  # torch has none of mixed precision on the CPU
    model = accelerator.prepare(model)
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    probe = (Items(7).rows[:4],)  # in float32, which the autocast takes
    with AcceleratedEngine(
        sg.load(GROWS), accelerator, model=model, optimizer=optimizer, probe=probe
    ) as engine:
        engine.start()
        assert not engine.done


def test_updates_are_counted_and_not_micro_batches():
    loop = Loop(gradient_accumulation_steps=3)
    losses = [loop.micro(torch.randn(number + 1, WIDTH)) for number in range(7)]
    engine = loop.engine
    assert engine.progress.step == 2
    assert engine.progress.samples == 1 + 2 + 3 + 4 + 5 + 6
    assert float(engine._core.loss) == pytest.approx(sum(losses[3:6]) / 3)
    assert loop.scheduler.scheduler.last_epoch == 2


def test_metrics_of_the_last_micro_batch_count():
    loop = Loop(gradient_accumulation_steps=2)
    for number in range(4):
        loop.micro(torch.randn(4, WIDTH), val=float(number))
        if loop.engine.wants_evaluation:
            loop.engine.observe(val=7.0)
    assert loop.engine._core.state.metrics["val"].last == 7.0


def test_step_may_be_called_after_updates_alone():
    loop = Loop(gradient_accumulation_steps=2)
    for _ in range(5):
        loop.micro(torch.randn(4, WIDTH), told=False)
        if loop.accelerator.sync_gradients:
            loop.engine.step(samples=8)
    assert loop.engine.progress.step == 2 and loop.engine.progress.samples == 16


def test_accumulation_by_hand_is_told_of_and_counts_as_one():
    loop = Loop()
    with pytest.warns(UserWarning, match="the optimizer has made no update"):
        loop.micro(torch.randn(4, WIDTH), step=False)
    loop.micro(torch.randn(4, WIDTH))
    assert loop.engine.progress.step == 1 and loop.engine.progress.samples == 8


def test_an_evaluation_that_comes_when_the_next_update_has_begun_is_refused():
    loop = Loop(gradient_accumulation_steps=2)
    for _ in range(5):
        loop.micro(torch.randn(4, WIDTH))
    assert loop.engine.wants_evaluation
    with pytest.raises(StageGraphError, match="1 micro-batches of the next update were learnt"):
        loop.engine.observe(val=1.0)
    loop.micro(torch.randn(4, WIDTH))  # the boundary was decided without it
    assert loop.engine.progress.step == 3


def test_a_metric_that_is_no_number_decides_nothing():
    text = GROWS.replace('"elapsed(4 steps)"', '"val < 1"')
    loop = Loop(text)
    for _ in range(6):
        loop.micro(torch.randn(4, WIDTH))
        if loop.engine.wants_evaluation:
            loop.engine.observe(val=math.nan)
    assert loop.engine.stages == {"main": "small"} and len(loop.model.blocks) == 2


def test_a_growth_that_fails_leaves_all_as_it_was():
    # The new block is to compute something else, and nothing is allowed.
    action = "{type: deepen, stack: blocks, add: 1, how: stack, tolerance: 1.0e-6}"
    loop = Loop(GROWS.replace("{type: deepen, stack: blocks, add: 1}", action))
    before = [id(p) for p in loop.model.parameters()]
    with pytest.raises(ActionError, match="main:grow"):
        loop.until_grown()
    assert [id(p) for p in loop.model.parameters()] == before
    held = [id(p) for group in loop.optimizer.param_groups for p in group["params"]]
    assert held == before and loop.engine.stages == {"main": "small"}
    loop.micro(torch.randn(4, WIDTH), told=False)


def test_figures_are_what_trackers_can_show():
    loop = Loop()
    assert loop.engine.figures() == {
        "stagegraph/stage/main": 0,
        "stagegraph/params": sum(p.numel() for p in loop.model.parameters()),
        "stagegraph/lr_factor/0": 1.0,
    }
    loop.until_grown()
    figures = loop.engine.figures()
    assert figures["stagegraph/stage/main"] == 2
    assert figures["stagegraph/alpha/main:grow#1"] == 0.0
    assert figures["stagegraph/params"] == sum(p.numel() for p in loop.model.parameters())


CURRICULUM = """
{stagegraph: 1, name: curriculum, initial: one,
 stages: {
   one: {kind: train, duration: 2 steps, next: two},
   two: {kind: train, during: [{type: batch_size, factor: 2, accumulate: grow},
         {type: hyper, knob: clip, value: 0.5}], duration: 2 steps, next: done},
   done: {kind: final}}}
"""


def test_accumulation_grows_as_the_graph_says():
    loop = Loop(CURRICULUM, probe=False, gradient_accumulation_steps=2)
    wanted = []
    while not loop.engine.done:
        wanted.append(loop.accelerator.gradient_accumulation_steps)
        loop.engine.knob("clip", 1.0)
        loop.micro(torch.randn(1, WIDTH))
    assert wanted == [2] * 4 + [4] * 8
    assert loop.engine.progress.samples == 12


def test_closed_it_leaves_nothing_on_the_accelerator(tmp_path):
    loop = Loop()
    accelerator = loop.accelerator
    assert accelerator._save_model_state_pre_hook and accelerator._load_model_state_pre_hook
    loop.engine.close()
    assert not accelerator._save_model_state_pre_hook
    assert not accelerator._load_model_state_pre_hook
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))


def test_without_the_adapter_a_grown_checkpoint_does_not_load(tmp_path):
    loop = Loop()
    loop.until_grown()
    loop.engine.observe(val=1.0) if loop.engine.wants_evaluation else None
    loop.accelerator.save_state(str(tmp_path))
    loop.engine.close()
    accelerator = fresh_accelerator()
    accelerator.prepare(Net())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        accelerator.load_state(str(tmp_path))


@pytest.mark.slow
def test_a_compiled_model_grows():
    loop = Loop(GROWS, dynamo_backend="eager")
    assert isinstance(loop.model, nn.Module) and "_orig_mod" in loop.model._modules
    while not loop.engine.done:
        loop.micro(torch.randn(4, WIDTH))
        if loop.engine.wants_evaluation:
            loop.engine.observe(val=1.0)
    assert len(loop.accelerator.unwrap_model(loop.model, keep_torch_compile=False).blocks) == 3
    x = torch.randn(4, WIDTH)
    loop.model.eval()
    inner = loop.accelerator.unwrap_model(loop.model, keep_torch_compile=False)
    assert torch.equal(loop.model(x), inner(x))


def test_regional_compilation_is_known_by_what_it_leaves():
    model = Net()
    assert "_orig_mod" in vars(compile_regions(model, backend="eager"))
