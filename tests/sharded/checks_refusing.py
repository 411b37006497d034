"""What two ranks must be told before a run."""

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim import AdamW

import stagegraph as sg
from stagegraph.actions.copying import why_no_copy
from stagegraph.actions.keeping.weights import why_not_saved
from stagegraph.actions.sharding.refusals import why_not_here
from stagegraph.schema import actions
from tests.sharded.small import Block, mesh, plain, probe, sharded

DEEPEN = "{type: deepen, stack: blocks, add: 1}"
GRAPH = """
stagegraph: 1
name: one growth
budget: {{steps: 40}}
initial: small
stages:
  small: {{kind: train, duration: 4 steps, next: grow}}
  grow: {{kind: grow, actions: [{action}], next: settle}}
  settle: {{kind: settle, lr_factor: 0.5, duration: 3 steps, next: done}}
  done: {{kind: final}}
"""


def refused(model, action=DEEPEN, optimizer=None, **more):
    """What the engine says of a graph, and its check too; empty if nothing."""
    graph = sg.load(GRAPH.format(action=action))
    optimizer = optimizer or AdamW(model.parameters(), lr=0.01)
    try:
        engine = sg.Engine(graph, model=model, optimizer=optimizer, probe=probe(), **more)
    except sg.UnsupportedError as error:
        return str(error)
    engine.close()
    return ""


def accepted():
    return refused(sharded())


def action_is_refused(kind):
    action = getattr(actions, kind).model_construct(type=kind.lower())
    return "; ".join(why_not_here(sharded(), [], None, action))


def what_has_no_copy():
    model = sharded()
    return why_no_copy(model), why_not_saved(model)


def tensor_parallelism():
    model, over = plain(), mesh()
    for block in model.blocks:
        for name, parameter in list(block.fc2.named_parameters()):
            block.fc2.register_parameter(
                name, nn.Parameter(distribute_tensor(parameter, over, [Shard(0)]))
            )
    return refused(model)


def tensor_parallelism_within():
    over = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "tp"))
    model = plain()
    for block in model.blocks:
        block.fc2.weight = nn.Parameter(distribute_tensor(block.fc2.weight, over["tp"], [Shard(0)]))
    fully_shard(model, mesh=over["dp"])
    return refused(model)


def rows_that_are_shards():
    class Scaled(type(plain())):
        def __init__(self):
            super().__init__()
            self.scales = nn.Parameter(Block().gain.new_ones(2))

    model = Scaled()
    fully_shard(model, mesh=mesh())
    return refused(model, "{type: deepen, stack: blocks, add: 1, count: [scales]}")


def blocks_sharded_together():
    model = plain()
    fully_shard([model.blocks[0], model.blocks[1]], mesh=mesh())
    fully_shard(model, mesh=mesh())
    return refused(model)


def an_average_that_is_whole():
    from torch.optim.swa_utils import AveragedModel

    model = plain()
    averaged = AveragedModel(model)
    return refused(sharded(model=model), ema=averaged)


def kept_in_a_folder(folder):
    """A run whose folder was to keep shards; graph and journal it keeps."""
    said = refused(sharded(), run=folder / "refused")
    model = sharded()
    engine = sg.Engine(
        sg.load(GRAPH.format(action=DEEPEN)),
        model=model,
        optimizer=AdamW(model.parameters()),
        probe=probe(),
        run=folder / "run",
        checkpoints=None,
    )
    engine.start()
    engine.close()
    return said
