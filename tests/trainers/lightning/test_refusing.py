"""What this host cannot do is refused by name, before the run, with the remedy."""

import subprocess
import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy

import stagegraph as sg
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compile import compile_graph
from stagegraph.trainers.lightning import StagegraphCallback, loops
from stagegraph.trainers.lightning.refusals import refuse
from tests.trainers.lightning import small


def refusal(ours, *others, module=None, val=True, **given):
    with pytest.raises(UnsupportedError) as caught:
        small.fit(module or small.Module(), ours, others, val=val, **given)
    with pytest.raises(sg.StageGraphError):
        ours.engine  # noqa: B018 - nothing has begun
    return str(caught.value)


CALLBACKS = {
    "StochasticWeightAveraging": (
        lambda: pl.callbacks.StochasticWeightAveraging(1e-2),
        "StochasticWeightAveraging swaps the LR scheduler and a copy of the model that does not "
        "grow; use WeightAveraging",
    ),
    "BackboneFinetuning": (
        pl.callbacks.BackboneFinetuning,
        "BackboneFinetuning freezes layers and adds parameter groups behind the graph's back; "
        "write freeze activities in the graph instead",
    ),
    "ModelPruning": (
        lambda: pl.callbacks.ModelPruning("l1_unstructured"),
        "ModelPruning replaces parameters; use the graph's prune",
    ),
    "two averages": (
        pl.callbacks.EMAWeightAveraging,
        "2 callbacks average the weights, and one can be followed; keep one",
    ),
    "an average elsewhere": (
        lambda: pl.callbacks.EMAWeightAveraging(device="meta"),
        "EMAWeightAveraging keeps its average on meta, and growth is made where the model is, on "
        "cpu; leave device= out",
    ),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_that_change_the_model_themselves_are_refused(name):
    make, message = CALLBACKS[name]
    trainer = small.trainer([small.stages(), make()])
    if name == "two averages":
        trainer.callbacks.append(make())
    trainer.strategy.connect(small.Module())
    with pytest.raises(UnsupportedError) as caught:
        refuse(trainer, compile_graph(sg.load(small.GROWS))[0], monitored=True)
    assert str(caught.value) == f"Trainer: {message}"


HOSTS = {
    "DDP": (
        DDPStrategy(),
        "this version decides in one process alone, and under DDPStrategy ranks would part; set "
        "devices=1 and leave strategy= out",
    ),
    "FSDP": (
        pl.strategies.FSDPStrategy(),
        "FSDPStrategy shards parameters once, and ranks would differ after a change without an "
        "error; train with strategy='auto' on one device",
    ),
    "ModelParallel": (
        pl.strategies.ModelParallelStrategy(),
        "ModelParallelStrategy shards parameters once, and ranks would differ after a change "
        "without an error; train with strategy='auto' on one device",
    ),
    "DeepSpeed": (
        type("DeepSpeedStrategy", (DDPStrategy,), {})(),
        "DeepSpeedStrategy partitions parameters and moments once, and does not see a change of "
        "structure or of what is trained; train with strategy='auto' on one device",
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_strategies_over_several_devices_are_refused(name, monkeypatch):
    """The real Trainer, with a strategy as it would be there."""
    strategy, message = HOSTS[name]
    trainer = small.trainer([small.stages()])
    plugin = trainer.precision_plugin
    monkeypatch.setattr(type(trainer), "strategy", property(lambda _: strategy))
    monkeypatch.setattr(type(trainer), "precision_plugin", property(lambda _: plugin))
    monkeypatch.setattr(type(trainer), "world_size", property(lambda _: 2))
    monkeypatch.setattr(type(trainer), "enable_validation", property(lambda _: True))
    with pytest.raises(UnsupportedError) as caught:
        refuse(trainer, compile_graph(sg.load(small.GROWS))[0], monitored=False)
    assert str(caught.value) == f"Trainer: {message}"


def test_packed_weights_are_refused(monkeypatch):
    trainer = small.trainer([small.stages()])
    kind = type("BitsandbytesPrecision", (MixedPrecision,), {})
    plugin = kind("bf16-mixed", "cpu")
    monkeypatch.setattr(type(trainer), "precision_plugin", property(lambda _: plugin))
    trainer.strategy.connect(small.Module())
    with pytest.raises(UnsupportedError, match="BitsandbytesPrecision packs weights into few bits"):
        refuse(trainer, compile_graph(sg.load(small.GROWS))[0], monitored=True)


def test_optimizers_that_do_not_follow_a_growth_are_refused():
    kind = type("AdamW8bit", (torch.optim.AdamW,), {})
    told = refusal(small.stages(), module=small.Module(optimizer=kind))
    assert told == (
        "Trainer: the optimizer AdamW8bit keeps its moments in eight bits, in blocks that do not "
        "follow a growth; use torch.optim.AdamW or the like"
    )


def test_no_optimizer_is_refused():
    class Without(small.Module):
        def configure_optimizers(self):
            return None

    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        told = refusal(small.stages(), module=Without())
    assert "configure_optimizers returns no optimizer" in told


def test_several_optimizers_need_manual_optimization_as_lightning_says():
    class Several(small.Module):
        configure_optimizers = small.Manual.configure_optimizers

    with pytest.raises(RuntimeError, match="only supported with manual optimization"):
        small.fit(Several(), small.stages())


def test_metrics_to_be_evaluated_without_a_validation_are_refused():
    assert refusal(small.stages(), val=False) == (
        "Trainer: the graph has 'val_loss' evaluated, and there is no validation; give fit() "
        "val_dataloaders and the module a validation_step, or StagegraphCallback(monitor=...)"
    )
    ours = small.stages(monitor=lambda model: {"val_loss": 1.0})
    small.fit(small.Module(), ours, val=False)
    assert ours.engine.done
    ours.engine.close()


def test_another_version_of_lightning_is_refused(monkeypatch):
    monkeypatch.setattr(loops, "LEANED_ON", ("fit_loop._combined_loader", "fit_loop._not_there"))
    assert refusal(small.stages()) == (
        "Trainer: this version of Lightning has no fit_loop._not_there, which the adapter leans "
        "on; it was made for 2.6"
    )


def test_the_other_package_is_refused():
    other = type("Trainer", (SimpleNamespace,), {"__module__": "pytorch_lightning.trainer"})()
    with pytest.raises(UnsupportedError, match="this Trainer is pytorch_lightning's, and the adap"):
        refuse(other, compile_graph(sg.load(small.GROWS))[0], monitored=False)


def test_one_callback_per_trainer():
    with pytest.raises(sg.StageGraphError, match="has one StagegraphCallback, and has 2"):
        small.fit(small.Module(), small.stages(), [small.stages()])


ASKS = """
{stagegraph: 1, name: asks, initial: first, metrics: {m: {goal: minimize}},
 stages: {
   first: {kind: train, duration: 1 steps, next: snap},
   snap: {kind: train, transitions: [{target: a, when: "elapsed(1 steps)",
          actions: [{type: snapshot, name: s}, {type: save, name: kept}]}]},
   a: {kind: train, during: [{type: sequence_length, length: 8}],
       transitions: [{target: b, when: "m > 2", at_most: 1,
       actions: [{type: roll_back, to: s, lr_factor: 0.5}]}], duration: 9 steps, next: b},
   b: {kind: train, duration: 2 steps, next: done},
   done: {kind: final}}}
"""

FOUND = {
    "main:a.during[0]": "sequence_length asks the Lightning Trainer to steer the data, which it "
    "cannot: its loop fetches from loaders that it keeps to itself; leave it out and order the "
    "data beforehand, or run this graph in a plain loop over engine.epochs(loader)",
    "main:a.transitions[0].actions[0]": "roll_back with data: rewind asks the Lightning Trainer "
    "to take the data back to where it was, which it cannot: its loop counts batches forward only; "
    "write data: skip, with what else will differ this time",
    "main:snap.transitions[0].actions[1]": "save asks the Lightning Trainer to keep models in the "
    "run's folder, which it cannot: its own checkpoints are the only ones of such a run; let "
    "ModelCheckpoint save, and leave it out",
}


def test_what_the_graph_asks_for_in_vain_is_refused_all_at_once_and_checked_without_lightning():
    told = refusal(small.stages(ASKS))
    assert set(told.split("\n")) == {f"{at}: {why}" for at, why in FOUND.items()}
    found = [one for one in sg.check(sg.load(ASKS), trainer="lightning") if one.severity == "error"]
    assert {f"{one.message}; {one.remedy}" for one in found} == set(told.split("\n"))
    assert all(one.pointer for one in found)


@pytest.mark.slow
def test_knobs_can_be_read_in_a_module():
    text = small.GROWS.replace("next: warmup},\n", "next: warmup},\n", 1).replace(
        "over: 5 steps}]", "over: 5 steps}, {type: hyper, knob: noise, value: 0.5}]"
    )
    read = {}

    class Reads(small.Module):
        def training_step(self, batch, batch_idx):
            engine = ours.engine
            read[self.trainer.global_step] = engine.knob("noise", 0.1)
            return super().training_step(batch, batch_idx)

    ours = small.stages(text)
    small.fit(Reads(), ours)
    assert read == {step: 0.5 if 4 <= step < 9 else 0.1 for step in range(14)}
    ours.engine.close()


def test_a_graph_with_errors_is_refused_by_the_callback():
    with pytest.raises(sg.StageGraphError):
        StagegraphCallback(sg.load({
            "stagegraph": 1, "name": "x", "initial": "a",
            "stages": {"a": {"kind": "train", "duration": "1 steps", "next": "nowhere"}},
        }))  # fmt: skip


def test_without_lightning_it_says_what_to_install():
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "import stagegraph, stagegraph.trainers\n"
        "try:\n    import stagegraph.trainers.lightning\n"
        "except ImportError as error:\n"
        "    sys.exit(0 if \"pip install 'stagegraph[lightning]'\" in str(error) else str(error))\n"
        "sys.exit('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
