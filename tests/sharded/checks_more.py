"""More that two or four ranks do: published models, meshes of two axes, accumulation, trials."""

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.actions.sharding.units import groups_of
from tests.actions.models import accept, boundary, deepen, growth
from tests.sharded.small import (
    Model,
    batch,
    everything,
    furthest,
    grow,
    loss_of,
    made,
    mesh,
    mine,
    moments,
    plain,
    sharded,
    train,
    weights,
)


def over_a_mesh_of_two_axes(folder):
    """Replicated over one axis and sharded over the other; 4 ranks."""
    over = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))

    def spread(model):
        for block in model.blocks:
            fully_shard(block, mesh=over, reshard_after_forward=True)
        return fully_shard(model, mesh=over)

    first, second = made(spread(plain())), made(plain())
    for one, part in ((first, mine), (second, everything)):
        train(*one[:2], range(3), part=part)
        grow(one[2], deepen(how="stack", add=1, state="copy"))
        train(*one[:2], range(3, 5), part=part)
    new = first[0].blocks[2].fc1.weight
    assert new.placements == first[0].blocks[0].fc1.weight.placements
    first[2].save_sharded(folder)
    state = first[2].state_dict()
    train(*first[:2], range(5, 8))
    train(*second[:2], range(5, 8), part=everything)
    again = made(spread(plain(seed=9)))
    again[2].load_state_dict(state)
    again[2].load_sharded(folder)
    train(*again[:2], range(5, 8))
    assert furthest(weights(again[0]), weights(first[0])) == 0.0
    assert furthest(moments(*again[:2]), moments(*first[:2])) == 0.0
    return furthest(weights(first[0]), weights(second[0]))


def onto_a_smaller_mesh_after_the_forward_pass():
    """``reshard_after_forward`` as a number; 4 ranks."""
    first, second = made(sharded(reshard_after_forward=2)), made(plain())
    for one, part in ((first, mine), (second, everything)):
        train(*one[:2], range(3), part=part)
        grow(one[2], deepen(how="stack", add=1))
        train(*one[:2], range(3, 6), part=part)
    (old,), (new,) = (groups_of(first[0].blocks[place]._get_fsdp_state()) for place in (0, 2))
    assert new.post_forward_mesh_info.shard_mesh_size == 2
    assert new._use_post_forward_mesh == old._use_post_forward_mesh is True
    return furthest(weights(first[0]), weights(second[0]))


def a_published_model_grows(how):
    from transformers import LlamaConfig, LlamaForCausalLM

    def make():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            use_cache=False,
        )
        return LlamaForCausalLM(config)

    def learn(model, optimizer, steps, part):
        for step in steps:
            words = part(batch(step))
            model(input_ids=words, labels=words).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    graph = sg.load(
        "{stagegraph: 1, name: llama, budget: {steps: 9}, initial: small, stages: {"
        "small: {kind: train, duration: 3 steps, next: grow}, grow: {kind: grow, actions: "
        f"[{{type: deepen, stack: model.layers, add: 1, how: {how}}}], next: settle}}, "
        "settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: done}, "
        "done: {kind: final}}}"
    )
    found = []
    for shards, part in ((True, mine), (False, everything)):
        model = make()
        if shards:
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh())
            fully_shard(model, mesh=mesh())
        optimizer = AdamW(model.parameters(), lr=0.01)
        words = batch(1000)
        engine = sg.Engine(
            graph, model=model, optimizer=optimizer, probe={"input_ids": words, "labels": words}
        )
        for step in range(6):
            learn(model, optimizer, [step], part)
            engine.step(loss=0.0)
        assert engine.done
        assert model.config.num_hidden_layers == 3
        assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]
        found.append(weights(model))
    return furthest(*found)


def accumulated_and_recomputed():
    """Two micro-batches per update, the first without a reduction; blocks recomputed."""

    class Recomputing(Model):
        def forward(self, words):
            x = self.emb(words)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return self.head(self.norm(x))

    def make():
        torch.manual_seed(0)
        return Recomputing()

    def learn(model, optimizer, steps, part):
        for step in steps:
            for place in range(2):
                if part is mine:
                    model.set_requires_gradient_sync(place == 1)
                (loss_of(model, part(batch(10 * step + place))) / 2).backward()
            optimizer.step()
            optimizer.zero_grad()

    first, second = made(sharded(model=make())), made(make())
    for one, part in ((first, mine), (second, everything)):
        learn(*one[:2], range(3), part)
        grow(one[2], deepen(how="stack", add=1))
        learn(*one[:2], range(3, 6), part)
    return furthest(weights(first[0]), weights(second[0]))


def without_a_reduction_at_the_boundary():
    """A script that turns the reduction off before the engine looks at gradients."""
    model, optimizer, actor = made(sharded())
    train(model, optimizer, range(2))
    model.set_requires_gradient_sync(False)
    evidence = grow(actor, deepen(how="stack", add=1))["main:grow.actions[0]"]
    assert evidence["gradient"]["reached"] > 0
    model.set_requires_gradient_sync(True)
    train(model, optimizer, range(2, 4))


TRIAL = """
stagegraph: 1
name: which
metrics: {val_loss: {goal: minimize, every: 2 steps}}
budget: {steps: 60}
initial: small
stages:
  small: {kind: train, duration: 4 steps, next: which}
  which:
    kind: trial
    metric: val_loss
    over: 4 steps
    options:
      - {name: a, actions: [{type: deepen, stack: blocks, add: 1, how: stack}]}
      - {name: b, actions: [{type: deepen, stack: blocks, add: 1}]}
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: done}
  done: {kind: final}
"""


class Data:
    """Which batch is next."""

    step = 0

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def a_trial_is_held():
    found = []
    for shards, part in ((True, mine), (False, everything)):
        model = sharded() if shards else plain()
        optimizer = AdamW(model.parameters(), lr=0.01)
        data, step = Data(), 0
        engine = sg.Engine(
            sg.load(TRIAL), model=model, optimizer=optimizer, data=data, probe=batch(1000)[:, :-1]
        )
        while not engine.done and step < 60:
            loss = loss_of(model, part(batch(data.step)))
            data.step += 1
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            engine.step(loss=0.0)
            if engine.wants_evaluation:
                with torch.no_grad():
                    engine.observe(val_loss=round(float(loss_of(model, batch(77))), 4))
        found.append((weights(model), step, len(model.blocks)))
    assert found[0][1:] == found[1][1:]
    assert found[0][2] == 3
    return furthest(found[0][0], found[1][0])


def trained_under_many_growths(folder):
    """Grown four times at random places, returned and saved in between: every rank the same."""
    model, optimizer, actor = made(sharded(dropout=0.1))
    torch.manual_seed(distributed.get_rank())
    for turn in range(4):
        train(model, optimizer, range(2 * turn, 2 * turn + 2))
        how = ["stack", "identity", "interleave", "middle"][turn]
        deeds = [growth(deepen(how=how, add=1), cohort=f"main:grow#{turn}")]
        actor.transact(boundary(2 * turn, deeds=deeds), accept)
        actor.save_sharded(folder / str(turn))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    other = sharded(seed=5)
    again = TorchActor(other, AdamW(other.parameters(), lr=0.01), probe=batch(1000)[:, :-1])
    again.load_state_dict(actor.state_dict())
    again.load_sharded(folder / "3")
    assert furthest(weights(other), weights(model)) == 0.0
    assert isinstance(other, nn.Module)
    return {name: tensor.tolist() for name, tensor in weights(model).items()}
