"""A small model in a loop around an accelerator, which can die anywhere and go on."""

import hashlib
import json
import random
import warnings

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

import stagegraph as sg
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.trainers.accelerate import AcceleratedEngine, newest_whole
from tests.actions.models import devices_numbers

WIDTH, ITEMS, CLASSES = 8, 26, 3

GROWS = """
{stagegraph: 1, name: grows, initial: small,
 metrics: {val: {goal: minimize, every: 2 steps}, loss: {goal: minimize}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "elapsed(4 steps)"}]},
   grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: large},
   large: {kind: train, duration: 4 steps, next: done},
   done: {kind: final}}}
"""

EVERYTHING = """
{stagegraph: 1, name: everything, initial: small,
 spaces: {tensors: {"blocks.*.up.weight": "mlp _", "blocks.*.up.bias": mlp,
          "blocks.*.down.weight": "_ mlp"}},
 metrics: {val: {goal: minimize, every: 2 steps}, loss: {goal: minimize}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "plateau(val, patience=3 steps)"}],
           duration: 4 steps, next: grow},
   grow: {kind: grow, actions: [{type: snapshot, name: before}, {type: teacher, name: old},
          {type: deepen, stack: blocks, add: 1, name: deep},
          {type: widen, space: mlp, add: 3, how: uneven}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: {grown: deep}, over: 4 steps,
            start: 0.2}, {type: freeze, of: all, but: {grown: deep}},
            {type: distill, teachers: old, weight: 0.5}], next: settle},
   settle: {kind: settle, lr_factor: 0.3, duration: 2 steps, next: undo},
   undo: {kind: train, transitions: [{target: again, when: "visits(again) < 1", at_most: 1,
          actions: [{type: roll_back, to: before, data: skip, lr_factor: 0.5}]}],
          duration: 2 steps, next: done},
   again: {kind: train, duration: 3 steps, next: done},
   done: {kind: final}}}
"""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.down(torch.relu(self.up(self.norm(x)))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Items(Dataset):
    """Rows, each a function of its number."""

    def __init__(self, first=0, length=ITEMS):
        made = torch.Generator().manual_seed(first)
        self.rows = torch.randn(length, WIDTH, generator=made)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], int(self.rows[index].sum() > 0)


def hardness(item):
    return float(item[0].abs().sum())


HARDER = """
{stagegraph: 1, name: harder, initial: easy,
 metrics: {val: {goal: minimize, every: 2 steps}},
 stages: {
   easy: {kind: train, during: [{type: difficulty, level: 0}], duration: 4 steps, next: grow},
   grow: {kind: grow, actions: [{type: snapshot, name: before},
          {type: deepen, stack: blocks, add: 1}], next: hard},
   hard: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps},
          {type: difficulty, level: 1}], next: undo},
   undo: {kind: train, transitions: [{target: easier, when: "visits(easier) < 1", at_most: 1,
          actions: [{type: roll_back, to: before, data: rewind, lr_factor: 0.5}]}],
          duration: 2 steps, next: done},
   easier: {kind: train, during: [{type: difficulty, level: 0}], duration: 3 steps, next: done},
   done: {kind: final}}}
"""


class Dies(Exception):
    pass


class Skips(torch.amp.GradScaler):
    """A scaler that finds an infinite gradient at some updates."""

    def __init__(self, at=(), device="cpu"):
        super().__init__(device, init_scale=4.0, growth_interval=3)
        self.at = at

    def state_dict(self):
        return super().state_dict()


def fresh_accelerator(**given):
    for one in (AcceleratorState, GradientState, PartialState):
        one._reset_state()
    data = {
        key: given.pop(key)
        for key in ("use_stateful_dataloader", "use_seedable_sampler")
        if key in given
    }
    given = {"cpu": True, **given}
    return Accelerator(dataloader_config=DataLoaderConfiguration(**data) if data else None, **given)


class Life:
    """One life of a run; ``seen`` has a fingerprint per update.

    Args:
        folder: Of the run, and of the accelerator's checkpoints.
        host: Whether the accelerator's checkpoints are what counts.
        die: Before which micro-batch of this life it dies.
    """

    def __init__(
        self, folder, text=GROWS, *, host=False, die=None, resume=False, scaler=None, batch=4,
        workers=0, generator=False, shuffle=True, ema=False, fused=False, save_every=1,
        naming=False, seed=3, persistent=False, curriculum=False, **given,
    ):  # fmt: skip
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        if naming:
            given["project_config"] = ProjectConfiguration(
                project_dir=str(folder), automatic_checkpoint_naming=True
            )
        accelerator = self.accelerator = fresh_accelerator(**given)
        if scaler is not None:
            accelerator.scaler = scaler
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, fused=fused)
        scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step / 10))
        loader = DataLoader(
            Items(), batch_size=batch, shuffle=shuffle, num_workers=workers,
            generator=torch.Generator().manual_seed(5) if generator else None,
            persistent_workers=persistent,
        )  # fmt: skip
        prepared = accelerator.prepare(model, optimizer, scheduler, loader)
        self.model, self.optimizer, self.scheduler, self.loader = prepared
        if curriculum:  # which is not prepared
            self.loader = sg.CurriculumLoader(
                Items(), batch_size=batch, seed=3, score=hardness, levels=2, num_workers=workers
            )
        self.ema = None
        if ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            if host:
                accelerator.register_for_checkpointing(self.ema)
        self.folder, self.host, self.naming, self.save_every = folder, host, naming, save_every
        self.engine = AcceleratedEngine(
            sg.load(text),
            accelerator,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            ema=self.ema,
            probe=(Items(7).rows[:4],),
            data=self.loader if curriculum else None,
            run=folder / "run",
            checkpoints=None if host else Checkpoints(every="1 step", keep=3, background=False),
        )
        self.seen, self.moves, self.levels = {}, [], set()
        self.engine.listen(self)
        for where in ("cpu", accelerator.device):
            torch.rand(3, device=where)  # a new process does not begin with another's numbers
        try:
            self.begin(resume=resume)
            self.train(die)
        finally:
            self.engine.close()

    def begin(self, *, resume):
        if self.host and resume:
            newest = newest_whole(self.folder / "checkpoints")
            if newest is not None:  # else it died before the first
                self.accelerator.load_state(None if self.naming else newest)
            assert self.engine.resume() == (newest is not None)
        elif not self.host:
            assert self.engine.resume() == resume

    def train(self, die):
        engine, accelerator, model = self.engine, self.accelerator, self.model
        held_out = Items(1).rows.to(accelerator.device)
        count = 0
        model.train()
        for epoch in engine.epochs(self.loader):
            for x, y in epoch:
                if count == die:
                    raise Dies
                count += 1
                if isinstance(self.loader, sg.CurriculumLoader):
                    self.levels.add(self.loader.drawn.level)
                with accelerator.accumulate(model):
                    out = model(x)
                    loss = engine.loss(F.cross_entropy(out, y), outputs=out, inputs=x)
                    accelerator.backward(loss)
                    at = getattr(accelerator.scaler, "at", ())
                    if engine.progress.step in at and accelerator.sync_gradients:
                        model.head.bias.grad.fill_(torch.inf)
                        accelerator.scaler.at = tuple(a for a in at if a != engine.progress.step)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                made = accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped
                if made and self.ema is not None:
                    self.ema.update_parameters(model)
                engine.step(loss=loss, samples=len(x))
                if engine.wants_evaluation:
                    model.eval()
                    with torch.no_grad():
                        engine.observe(val=model(held_out).square().mean())
                    model.train()
                if made or engine.done:
                    self.look(x)
                    self.save()

    def save(self):
        step = self.engine.progress.step
        if self.host and step % self.save_every == 0:
            where = self.folder / "checkpoints" / f"step_{step}"
            self.accelerator.save_state(None if self.naming else where)

    def write(self, records):
        self.moves += [(r["step"], r["target"]) for r in records if r["type"] == "move"]

    def look(self, batch):
        model, inner, engine = self.model, self.optimizer.optimizer, self.engine
        names = {id(p): name for name, p in model.named_parameters()}
        moments = sorted(
            (f"{names[id(p)]}.{key}", torch.as_tensor(value))
            for p, entry in inner.state.items()
            for key, value in entry.items()
        )
        state = without_seconds(engine.state_dict())
        spent = engine._core.state.spent.step + engine._core.unabsorbed
        self.seen[spent] = {
            "batch": of_tensors([("x", batch)]),
            "weights": of_tensors(model.state_dict().items()),
            "moments": of_tensors(moments),
            "groups": [
                {k: [names[id(p)] for p in v] if k == "params" else repr(v) for k, v in g.items()}
                for g in inner.param_groups
            ],
            "scheduler": repr(sorted(self.scheduler.state_dict().items())),
            "scaler": repr(self.accelerator.scaler and self.accelerator.scaler.state_dict()),
            "ema": self.ema and of_tensors(self.ema.state_dict().items()),
            "random": (
                of_tensors([("torch", torch.random.get_rng_state())]),
                repr(np.random.get_state()),
                random.getstate(),
                devices_numbers(),
            ),
            "trained": [n for n, p in model.named_parameters() if p.requires_grad],
            "engine": json.dumps(state, sort_keys=True),
            "stages": dict(engine.stages),
        }


def of_tensors(named):
    made = hashlib.sha256()
    for name, value in named:
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        made.update(value.detach().contiguous().cpu().numpy().tobytes())
    return made.hexdigest()[:16]


def without_seconds(state):
    if isinstance(state, dict):
        return {k: without_seconds(v) for k, v in state.items() if k not in ("seconds", "replay")}
    return [without_seconds(one) for one in state] if isinstance(state, list) else state


def differences(whole, resumed):
    """From which update on which parts of a resumed run are not those of the whole one."""
    for step in sorted(resumed):
        if step not in whole:
            return f"update {step} is none of the whole run's"
        wrong = [key for key, value in resumed[step].items() if value != whole[step][key]]
        if wrong:
            return f"update {step}: {', '.join(wrong)}"
    return None if max(resumed) == max(whole) else f"ends at {max(resumed)}, not {max(whole)}"


def live_twice(folder, cuts, text=GROWS, **given):
    """A whole run, and for each cut one that dies before that micro-batch and goes on."""
    make_scaler = given.pop("make_scaler", lambda: None)
    whole = Life(folder / "whole", text, scaler=make_scaler(), **given)
    for cut in cuts:
        cut_in = folder / f"cut-{cut}"
        try:
            Life(cut_in, text, die=cut, scaler=make_scaler(), **given)
        except Dies:
            pass
        else:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = Life(cut_in, text, resume=True, scaler=make_scaler(), **given)
        different = differences(whole.seen, again.seen)
        assert different is None, f"cut before micro-batch {cut}: {different}"
        assert again.engine.ended == whole.engine.ended
    return whole
