"""A small transformer of odd sizes, sharded per block, and the same whole."""

import torch
from torch import distributed, nn
from torch.optim import AdamW

from stagegraph.actions import TorchActor
from tests.actions.models import accept, alpha_ramp, boundary, freeze, growth

D, WORDS = 6, 11
SIZE = 4
"""Samples of a batch, over all ranks."""


class Block(nn.Module):
    """Pre-norm; a gain of one number lies on one rank alone, and 5 units lie unevenly."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.ln1 = nn.LayerNorm(D)
        self.q = nn.Linear(D, D, bias=False)
        self.o = nn.Linear(D, D)
        self.ln2 = nn.LayerNorm(D)
        self.fc1 = nn.Linear(D, 5)
        self.fc2 = nn.Linear(5, D)
        self.gain = nn.Parameter(torch.ones(1))
        self.drop = nn.Dropout(dropout)

    def reset_parameters(self):
        nn.init.ones_(self.gain)

    def forward(self, x):
        h = self.ln1(x)
        x = x + self.drop(self.o(torch.softmax(self.q(h) @ h.transpose(-1, -2), -1) @ h))
        return x + self.drop(self.fc2(torch.tanh(self.gain * self.fc1(self.ln2(x)))))


class Model(nn.Module):
    """Embedding and head share their weight."""

    def __init__(self, num=2, dropout=0.0):
        super().__init__()
        self.emb = nn.Embedding(WORDS, D)
        self.blocks = nn.ModuleList([Block(dropout) for _ in range(num)])
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, WORDS, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, words):
        x = self.emb(words)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def kind():
    """The kind of device that this process trains on: CUDA where its group is NCCL's."""
    alone = not distributed.is_initialized()
    return "cpu" if alone or distributed.get_backend() != "nccl" else "cuda"


def mesh():
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind(), (distributed.get_world_size(),))


def plain(num=2, seed=0, **more):
    torch.manual_seed(seed)
    return Model(num, **more).to(kind())


def sharded(num=2, seed=0, model=None, root=True, each=True, dropout=0.0, **policy):
    from torch.distributed.fsdp import fully_shard

    model = model or plain(num, seed, dropout=dropout)
    over = mesh()
    if each:
        for block in model.blocks:
            fully_shard(block, mesh=over, **policy)
    if root:
        fully_shard(model, mesh=over, **policy)
    return model


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, WORDS, (SIZE, 7), generator=generator).to(kind())


def loss_of(model, words):
    out = model(words[:, :-1])
    return nn.functional.cross_entropy(out.flatten(0, 1).float(), words[:, 1:].flatten())


def mine(words):
    """This rank's part of a batch."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    return words.chunk(size)[rank]


def train(model, optimizer, steps, *, part=mine):
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, part(batch(step)))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def everything(words):
    return words


def probe():
    return batch(1000)[:, :-1]


def made(model, optimizer=None, **more):
    """The model, its optimizer, and what acts on them."""
    optimizer = optimizer or AdamW(model.parameters(), lr=0.01)
    return model, optimizer, TorchActor(model, optimizer, probe=probe(), **more)


def grow(actor, action, step=3, **more):
    deeds = [growth(action)]
    return actor.transact(boundary(step=step, deeds=deeds, **more), accept).evidence


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def weights(model):
    """All weights, whole."""
    return {name: whole(p.detach()).clone() for name, p in model.named_parameters()}


def moments(model, optimizer):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": whole(value).clone()
        for p, entry in optimizer.state.items()
        for key, value in entry.items()
    }


def listed(model, optimizer):
    """Weights and moments, whole, as they can be compared anywhere."""
    both = {**weights(model), **moments(model, optimizer)}
    return {name: tensor.tolist() for name, tensor in both.items()}


HELD = (alpha_ramp(value=0.5), freeze("blocks.0"))


def furthest(one, other):
    """The largest difference of two mappings of tensors, which must have the same keys.

    Where a tensor has numbers above 1, such as sums of squares, it is a share of the largest.
    """
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    return max(
        float((one[k].double() - other[k].double()).abs().max())
        / max(1.0, float(other[k].double().abs().max()))
        for k in one
    )


def digest(model, optimizer):
    """What a failed transaction must leave as it was on this rank, identities included."""
    held = [
        (
            name,
            id(module),
            type(module),
            module.training,
            {key: id(value) for key, value in module._modules.items()},
            {key: id(value) for key, value in module._parameters.items()},
            {key: list(value) for key, value in vars(module).items() if key.endswith("hooks")},
        )
        for name, module in model.named_modules()
    ]
    parameters = [
        (name, id(p), p.requires_grad, id(p.grad), p.to_local().tolist())
        for name, p in model.named_parameters()
    ]
    groups = [
        [(key, [id(p) for p in value] if key == "params" else value) for key, value in g.items()]
        for g in optimizer.param_groups
    ]
    state = [
        (
            id(p),
            {k: (id(v), getattr(v, "to_local", lambda v=v: v)().tolist()) for k, v in e.items()},
        )
        for p, e in optimizer.state.items()
    ]
    return held, parameters, groups, state, torch.get_rng_state().tolist()
