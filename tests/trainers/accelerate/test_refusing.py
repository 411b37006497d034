"""What Accelerate cannot do for a graph is refused by name, before the run."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from accelerate.utils import compile_regions

import stagegraph as sg
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compile import compile_graph
from stagegraph.trainers.accelerate import AcceleratedEngine
from stagegraph.trainers.accelerate.refusals import LEANED_ON, refuse
from tests.trainers.accelerate.small import GROWS, Net, fresh_accelerator

COMPILED = compile_graph(sg.load(GROWS))[0]


class Stands:
    """An accelerator that says something else of itself; the real ones need what is not here."""

    def __new__(cls, **given):
        accelerator = fresh_accelerator()
        kind = type(
            "Stands", (type(accelerator),), {k: v for k, v in given.items() if k != "state"}
        )
        accelerator.__class__ = kind
        if "state" in given:
            accelerator.state = given["state"]
        return accelerator


def prepared(accelerator):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return accelerator.prepare(model, optimizer)


PARALLEL = SimpleNamespace(tp_enabled=True, cp_enabled=False, sp_enabled=False)

SETTINGS = [
    ({"distributed_type": DistributedType.DEEPSPEED}, "DeepSpeed partitions"),
    ({"distributed_type": DistributedType.FSDP, "is_fsdp2": False}, "FSDP1 flattens"),
    ({"distributed_type": DistributedType.FSDP, "is_fsdp2": True}, "FSDP2 shards what is there"),
    ({"distributed_type": DistributedType.MEGATRON_LM}, "Megatron-LM has a loop"),
    ({"distributed_type": DistributedType.XLA}, "torch-xla compiles"),
    ({"parallelism_config": PARALLEL}, "tensor, context and sequence parallelism"),
    ({"mixed_precision": "fp8"}, "fp8 puts other layers"),
]


@pytest.mark.parametrize(("given", "told"), SETTINGS, ids=[told for _, told in SETTINGS])
def test_settings_are_refused_by_name(given, told):
    accelerator = fresh_accelerator()
    model, optimizer = prepared(accelerator)
    for_real = Stands(**given)
    with pytest.raises(UnsupportedError, match=f"^Accelerate: {told}"):
        refuse(for_real, COMPILED, model, [optimizer])


def test_the_plugins_of_a_plan_that_did_not_come_about_are_refused_too():
    state = SimpleNamespace(deepspeed_plugins={"default": object()}, fsdp_plugin=object())
    accelerator = Stands(is_fsdp2=False, parallelism_config=None, state=state)
    accelerator.__class__.distributed_type = DistributedType.NO
    accelerator.__class__.num_processes = 1
    accelerator.__class__.mixed_precision = "no"
    with pytest.raises(UnsupportedError) as refused:
        refuse(accelerator, COMPILED, Net(), [])
    assert "DeepSpeed partitions" in str(refused.value) and "FSDP1 flattens" in str(refused.value)


@pytest.mark.parametrize("kind", ["AdamW8bit", "GaLoreAdamW", "Adam4bit", "AdaLomo"])
def test_optimizers_whose_state_does_not_follow_are_refused(kind):
    accelerator = fresh_accelerator()
    model = Net()
    optimizer = type(kind, (torch.optim.SGD,), {})(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    with pytest.raises(UnsupportedError, match=rf"Accelerate: the optimizer {kind} "):
        AcceleratedEngine(sg.load(GROWS), accelerator, model=model, optimizer=optimizer)


def test_what_was_not_prepared_is_refused():
    accelerator = fresh_accelerator()
    _, optimizer = prepared(accelerator)
    other = Net()
    theirs = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(UnsupportedError) as refused:
        AcceleratedEngine(sg.load(GROWS), accelerator, model=other, optimizer=[optimizer, theirs])
    first, second = str(refused.value).splitlines()
    assert first.startswith("Accelerate: model= is not what accelerator.prepare(...) gave")
    assert second.startswith("Accelerate: the SGD of optimizer= is not what")


def test_no_accelerator_is_told():
    with pytest.raises(TypeError, match="accelerator= takes an Accelerator, got a Net"):
        AcceleratedEngine(sg.load(GROWS), Net(), model=Net(), optimizer=[])


def test_blocks_compiled_one_by_one_cannot_be_grown():
    accelerator = fresh_accelerator()
    model, optimizer = prepared(accelerator)
    twin = compile_regions(model, backend="eager")
    with pytest.raises(UnsupportedError, match="use_regional_compilation makes a second model"):
        AcceleratedEngine(sg.load(GROWS), accelerator, model=twin, optimizer=optimizer)


def test_a_dispatched_model_cannot_be_grown():
    accelerator = fresh_accelerator()
    model, optimizer = prepared(accelerator)
    model.blocks[0]._hf_hook = object()
    with pytest.raises(UnsupportedError, match="dispatched or offloaded by accelerate's hooks"):
        AcceleratedEngine(sg.load(GROWS), accelerator, model=model, optimizer=optimizer)


def test_a_quantized_model_cannot_be_grown():
    accelerator = fresh_accelerator()
    model, optimizer = prepared(accelerator)
    model.is_quantized = True
    with pytest.raises(UnsupportedError, match="the model is quantized, and main:grow grows it"):
        AcceleratedEngine(sg.load(GROWS), accelerator, model=model, optimizer=optimizer)


def test_another_version_that_lacks_what_is_leaned_on_is_refused(monkeypatch):
    accelerator = fresh_accelerator()
    model, optimizer = prepared(accelerator)
    assert all(hasattr(accelerator, name) for name in LEANED_ON)
    del accelerator._dataloaders
    with pytest.raises(UnsupportedError, match="has no _dataloaders, which the adapter leans on"):
        AcceleratedEngine(sg.load(GROWS), accelerator, model=model, optimizer=optimizer)


def test_the_table_finds_nothing_that_this_loop_cannot_do():
    found = sg.check(sg.load(GROWS), trainer="accelerate")
    assert not [one for one in found if one.severity == "error"]
