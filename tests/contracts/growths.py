"""The table of growths: per operator one row or several, and what every one of them is put through.

A row is a small model, a growth of it, and what that growth promises. The tests of
``test_growth.py`` know no operator by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Muon, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from stagegraph.actions import TorchActor
from stagegraph.schema.actions import GrowthAction
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.attention import READER, Reader, Rotary, act, rotary_spaces
from tests.actions.growth.grown import Residual
from tests.actions.growth.modules.test_add_head import Headed
from tests.actions.growth.modules.test_listed_experts import DECLARED, Mixture
from tests.actions.growth.sized import SIZED_GPT, SizedGpt
from tests.actions.growth.wide import GPT, RESNET, VIT, Gpt, ResNet, VisionTransformer, images
from tests.actions.growth.wide import ids as short_ids
from tests.actions.models import Counting, Model, accept, batch, boundary, growth, snapshot

COUNTS = ("config.num_hidden_layers", "config.layer_types")
TIED = Spaces(
    tensors={**GPT.tensors, "emb.weight": "vocab stream", "head.weight": "vocab stream"},
    sizes=GPT.sizes,
)
KEYS = ("*.att.kv.bias",)
BIGGER = {"d": 16, "groups": 4, "up": 20, "num": 4}


def ids():
    """Tokens at every position that the models know."""
    return torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Row:
    """A growth, and what it promises.

    Attributes:
        make: Makes the model, in float32.
        action: The growth.
        x: Makes a batch.
        spaces: What the model declares.
        parts: Makes what only code can give, in a dtype.
        first: Growths that must have been before.
        again: The growth that comes on top; ``None`` for the same once more.
        exact: Whether the function stays in eval mode.
        train: Whether it stays in train mode too.
        atol: By how much at most, in float32, from what was measured (growth.md, 2.3), twice over
            for the models here, which are other ones.
        compared: Makes the grown output comparable.
        reference: What the grown model is to compute, where it is not what it did.
        frozen: What a freeze holds.
        idle: Parameters that have entries without a gradient, whatever their growth: rows that the
            batch does not reach, a bias of keys, which a softmax does not see, a bias right before
            a batch norm, which takes it out.
    """

    make: Callable[[], nn.Module]
    action: GrowthAction
    x: Callable[[], Tensor] = batch
    spaces: Spaces = field(default_factory=Spaces)
    parts: Callable[[torch.dtype], Mapping[str, Any]] = lambda _dtype: {}
    first: tuple[GrowthAction, ...] = ()
    again: GrowthAction | None = None
    exact: bool = True
    train: bool = True
    atol: float = 5e-6
    compared: Callable[[Tensor], Tensor] = lambda out: out
    reference: Callable[[Scene], nn.Module] = lambda scene: scene.model
    frozen: tuple[str, ...] = ("blocks.0",)
    idle: tuple[str, ...] = ()


class Scene:
    """A row come to life: its model, optimizers, schedules and actor, before the growth."""

    def __init__(self, row, make_optimizers=None, *, dtype=torch.float32):
        torch.manual_seed(0)
        self.row, self.model = row, row.make().to(dtype)
        self.optimizers = (make_optimizers or OPTIMIZERS["AdamW"])(self.model)
        self.schedulers = [LambdaLR(o, lambda step: 0.9**step) for o in self.optimizers]
        self.x = row.x()
        self.x = self.x.to(dtype) if self.x.is_floating_point() else self.x
        self.parts = row.parts(dtype)
        self.actor = TorchActor(
            self.model,
            self.optimizers,
            scheduler=self.schedulers,
            spaces=row.spaces,
            probe=self.x,
            parts=self.parts,
        )

    def prepare(self):
        """The growths that must have been before."""
        for number, action in enumerate(self.row.first):
            self.grow(action, f"first{number}")
        return self

    def grow(self, action=None, cohort="new", *, held=(), step=0):
        """Grow; the certificate."""
        deeds = [snapshot(), growth(action or self.row.action, cohort=cohort)]
        done = self.actor.transact(boundary(step, deeds=deeds, held=held), accept)
        return done.evidence["main:grow.actions[0]"]

    def step(self, times=1):
        """Some updates; the losses."""
        losses = []
        for _ in range(times):
            loss = self.model(self.x).pow(2).mean()
            loss.backward()
            self.update()
            losses.append(float(loss.detach()))
        return losses

    def update(self):
        """Let optimizers and schedules step."""
        for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    def output(self, model=None):
        """What a model computes in eval mode."""
        model = model or self.model
        modes = [module.training for module in model.modules()]
        with torch.no_grad():
            out = model.eval()(self.x)
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        return out


def _deepen(how="identity", *, num=2, **fields):
    return Row(
        partial(Counting, num),
        act("deepen", stack="blocks", how=how, count=COUNTS, **{"add": 2, **fields}),
        partial(batch, 64),
        exact=how == "identity",
    )


def _widen(how="split", *, make=Gpt, x=ids, spaces=GPT, space="mlp", train=True, **fields):
    sized = fields if {"add", "factor", "to"} & set(fields) else {"add": 4, **fields}
    action = act("widen", space=space, how=how, **sized)
    return Row(make, action, x, spaces, train=train, atol=1e-5)


def _attach(**fields):
    action = act("attach", host=["blocks.*.mlp"], **fields)
    again = act("attach", host=["blocks.*.mlp"], **{**fields, "child": "second"})
    return Row(partial(Model, block=Residual), action, again=again, idle=("blocks.1.mlp.*.bias",))


def _experts(first=(), *, block=Residual, exact=True, **fields):
    given = {"moe": ["blocks.*.mlp.moe"], **fields}
    return Row(
        partial(Model, block=block),
        act("add_experts", **given),
        partial(batch, 256),
        first=first,
        exact=exact,
    )


def _inherit(*, exact=True, **fields):
    return Row(
        partial(SizedGpt, 19, 4, 15, 4),
        act("inherit", source="small", **fields),
        ids,
        SIZED_GPT,
        parts=lambda dtype: {"small": _small().to(dtype)},
        exact=exact,
        reference=lambda scene: scene.parts["small"],
    )


def _small():
    state = torch.get_rng_state()
    torch.manual_seed(5)
    model = SizedGpt()
    torch.set_rng_state(state)
    return model


def _regrow(*, exact=True, **fields):
    even_bigger = {"d": 32, "groups": 8, "up": 40, "num": 6}
    action = act("regrow", build="big", fields=BIGGER, **fields)
    again = act("regrow", build="big", fields=even_bigger, **fields)
    return Row(
        SizedGpt,
        action,
        ids,
        SIZED_GPT,
        lambda _dtype: {"big": SizedGpt},
        (),
        again,
        exact=exact,
        idle=KEYS,
    )


UPCYCLE = act("upcycle", host=["blocks.*.mlp"], experts=4)
MIXED = partial(Model, block=Residual)


def _old_entries(out):
    return out[..., :11]


def _rotary_x():
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4))


GROWTHS: dict[str, Row] = {
    "deepen, identity": _deepen(at="spread"),
    "deepen, identity, fresh": _deepen(init="fresh"),
    "deepen, stack": _deepen("stack"),
    "deepen, interleave": _deepen("interleave"),
    "deepen, middle": _deepen("middle"),
    "deepen, drop_and_cat": _deepen("drop_and_cat", num=4),
    "deepen, random": _deepen("random"),
    "widen, split": _widen(),
    "widen, split, stream, tied": _widen(space="stream", factor=2),
    "widen, split, channels": _widen(make=ResNet, x=images, spaces=RESNET, space="inner"),
    "widen, split, packed": _widen(make=VisionTransformer, x=images, spaces=VIT),
    "widen, noise": _widen(noise=0.1),
    "widen, uneven": _widen("uneven"),
    "widen, zero_out": _widen("zero_out"),
    "widen, zero_in": _widen("zero_in"),
    "widen, zero_in, stream, tied": _widen("zero_in", space="stream"),
    "widen, pair": _widen("pair"),
    "widen, asymmetric, scales": _widen(copies="asymmetric"),
    "extend_vocab": Row(
        Reader,
        act("extend_vocab", space="vocab", add=5),
        short_ids,
        READER,
        compared=_old_entries,
        frozen=("mix",),
        idle=("emb.weight",),
    ),
    "extend_vocab, tied": Row(
        Gpt, act("extend_vocab", space="vocab", add=5), ids, TIED, compared=_old_entries
    ),
    "extend_context": Row(
        Reader,
        act("extend_context", space="context", add=5),
        short_ids,
        READER,
        frozen=("mix",),
        idle=("pos.weight",),
    ),
    "add_heads, groups": Row(Gpt, act("add_heads", space="groups", add=2), ids, GPT, idle=KEYS),
    "add_heads, in each group": Row(
        Gpt, act("add_heads", space="per_group", add=2, how="split"), ids, GPT, idle=KEYS
    ),
    "widen_head_dim": Row(Gpt, act("widen_head_dim", space="dim", add=3), ids, GPT, idle=KEYS),
    "widen_head_dim, rotary": Row(
        Rotary,
        act("widen_head_dim", space="half", factor=2),
        _rotary_x,
        rotary_spaces(),
        frozen=("o",),
        idle=("qkv.bias",),
    ),
    "attach, adapter": _attach(module="adapter", bottleneck=3),
    "attach, copy": _attach(module="copy", init="zero"),
    "upcycle": Row(
        MIXED,
        UPCYCLE,
        partial(batch, 64),
        again=act("add_experts", moe=["blocks.*.mlp.moe"], factor=2),
    ),
    "add_experts": _experts((UPCYCLE,), factor=2),
    "add_experts, kept top_k": _experts((UPCYCLE,), add=2, top_k="keep", exact=False),
    "add_experts, listed": _experts(block=Mixture, factor=2, **{**DECLARED, "moe": ["blocks.*"]}),
    "add_head": Row(
        Headed,
        act("add_head", heads="heads", head="b"),
        batch,
        again=act("add_head", heads="heads", head="c"),
        idle=("heads.b.*",),
        frozen=("backbone",),
    ),
    "inherit": _inherit(),
    "inherit, corner": _inherit(how="corner", stacks="leave", exact=False),
    "regrow": _regrow(how="split", stacks="identity"),
    "regrow, corner": _regrow(exact=False),
}


def _one(make, **fields):
    return lambda model: [make(model.parameters(), lr=0.001, **fields)]


def _muon(model):
    """Muon for matrices, as its authors use it, AdamW for the rest."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() == 2]
    rest = [p for p in parameters if p.dim() != 2]
    return [Muon(matrices, lr=0.001), AdamW(rest, lr=0.001, fused=True)]


OPTIMIZERS: dict[str, Callable[[nn.Module], list[Optimizer]]] = {
    "AdamW": _one(AdamW, foreach=False),
    "AdamW, foreach": _one(AdamW, foreach=True),
    "AdamW, fused": _one(AdamW, fused=True),
    "SGD": _one(SGD, momentum=0.9),
    "Adam, amsgrad": _one(Adam, amsgrad=True),
    "RMSprop": _one(RMSprop, centered=True, momentum=0.5),
    "Adagrad": _one(Adagrad),
    "Adafactor": _one(Adafactor),
    "Muon and AdamW": _muon,
}


ALWAYS = ("AdamW, foreach", "AdamW, fused")


def sample():
    """Per row a fused and a foreach step, and another optimizer in turn."""
    others = [name for name in OPTIMIZERS if name not in ALWAYS]
    return [
        (name, optimizer)
        for number, name in enumerate(GROWTHS)
        for optimizer in (*ALWAYS, others[number % len(others)])
    ]


def fingerprint(model):
    """A hash of all that a model's tensors hold."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


def fingerprints(rows):
    """The hash of each of these rows' models after its growth."""
    found = {}
    for name in rows:
        scene = Scene(GROWTHS[name]).prepare()
        scene.step()
        scene.grow()
        found[name] = fingerprint(scene.model)
    return found
