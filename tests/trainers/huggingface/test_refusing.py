"""What this host cannot do is refused by name, before the run, with the remedy."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from transformers import Trainer

import stagegraph as sg
from stagegraph.errors import MetricError, UnsupportedError
from stagegraph.graph.compile import compile_graph
from stagegraph.trainers.huggingface import StagedTrainer, StagegraphCallback
from stagegraph.trainers.huggingface.refusals import refuse
from tests.trainers.huggingface import small


def refusal(trainer):
    with pytest.raises(UnsupportedError) as caught:
        trainer.train()
    return str(caught.value)


SETTINGS = {
    "auto_find_batch_size": (
        {"auto_find_batch_size": True},
        "Trainer: auto_find_batch_size begins the loop again with another batch size, in mid-run "
        "too; set per_device_train_batch_size",
    ),
    "no evaluation": (
        {"eval_dataset": None},
        "Trainer: the graph has 'eval_loss' evaluated, and there is no eval_dataset; give one, or "
        "StagegraphCallback(monitor=...)",
    ),
    "8 bits": (
        {"optim": "adamw_bnb_8bit"},
        "Trainer: optim='adamw_bnb_8bit' keeps its moments in eight bits, in blocks that do not "
        "follow a growth; use optim='adamw_torch' or the like",
    ),
    "galore": (
        {"optim": "galore_adamw", "optim_target_modules": ["attn"]},
        "Trainer: optim='galore_adamw' keeps moments of a projection whose shape does not follow a "
        "growth; use optim='adamw_torch' or the like",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_refused(tmp_path, name):
    given, message = SETTINGS[name]
    trainer = small.trainer(tmp_path, **given)
    assert refusal(trainer) == message
    assert not trainer._stages.has_engine  # and nothing has begun


CUT = (
    "several processes that are not each a replica of the model cannot follow a change of its "
    "parameters; train under DistributedDataParallel: without parallelism_config, tp_plan and "
    "distributed_config, on CPUs or CUDA devices, started by torchrun or accelerate launch"
)

HOSTS = {
    "deepspeed": (
        {"is_deepspeed_enabled": True},
        "deepspeed partitions parameters and moments once, and does not see a change of structure "
        "or of what is trained; train without deepspeed",
    ),
    "fsdp": (
        {"is_fsdp_enabled": True},
        "fsdp shards parameters once, and ranks would differ after a change without an error; "
        "train without fsdp",
    ),
    "cut": (
        {
            "world_size": 2,
            "parallel_mode": "distributed",
            "is_distributed_loading_by_transformers": True,
        },
        CUT,
    ),
    "pods": ({"world_size": 2, "parallel_mode": "tpu"}, CUT),
    "nodes": (
        {"world_size": 2, "parallel_mode": "distributed", "save_on_each_node": True},
        "save_on_each_node keeps a checkpoint on each node, and nobody could see whether all of "
        "them are whole; leave it out, with an output_dir that all nodes see",
    ),
    "static": (
        {"world_size": 2, "parallel_mode": "distributed", "ddp_static_graph": True},
        "ddp_static_graph promises that the same parameters are used for ever, and the graph "
        "changes them; leave it out",
    ),
    "DataParallel": (
        {"n_gpu": 2},
        "with several GPUs in one process it wraps the model in torch's DataParallel, whose "
        "replicas do not have the engine's hooks; set CUDA_VISIBLE_DEVICES to one of them",
    ),
    "model_init": (
        {"model_init": small.gpt2},
        "model_init makes another model when training begins, which the engine does not hold; "
        "give model=model_init() (hyper-parameter search with a graph: one Trainer per trial)",
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_that_this_machine_does_not_have_are_refused(tmp_path, name):
    """The real Trainer's attributes, with one of them as it would be there."""
    given, message = HOSTS[name]
    real = small.trainer(tmp_path)
    args = SimpleNamespace(
        **{
            k: getattr(real.args, k)
            for k in (
                "auto_find_batch_size",
                "ddp_static_graph",
                "n_gpu",
                "optim",
                "parallel_mode",
                "save_on_each_node",
                "world_size",
            )
        }
    )
    seen = SimpleNamespace(
        **{k: getattr(real, k) for k in dir(real) if k.startswith(("is_", "_"))
           and not k.startswith("__")},
        model=real.model, optimizer=None, eval_dataset=(), model_init=None,
        accelerator=real.accelerator,
    )  # fmt: skip
    for key, value in given.items():
        setattr(args if hasattr(args, key) else seen, key, value)
    seen.args = args
    with pytest.raises(UnsupportedError) as caught:
        refuse(seen, compile_graph(small.graph())[0], monitored=False)
    assert str(caught.value) == f"Trainer: {message}"


def test_another_version_of_the_trainer_is_refused(tmp_path, monkeypatch):
    trainer = small.trainer(tmp_path)
    monkeypatch.setattr(trainer, "_get_output_dir", None)
    assert refusal(trainer) == (
        "Trainer: this version of transformers has no _get_output_dir, which the adapter leans on; "
        "it was made for 5.24"
    )


ASKS = """
{stagegraph: 1, name: asks, initial: a, metrics: {m: {goal: minimize}},
 stages: {
   a: {kind: train, during: [{type: hyper, knob: clip, value: 0.5},
       {type: sequence_length, length: 8}],
       transitions: [{target: b, when: "m > 2", at_most: 1,
       actions: [{type: roll_back, to: s, lr_factor: 0.5}]}], duration: 9 steps, next: b},
   b: {kind: train, duration: 2 steps, next: done},
   done: {kind: final}}, interrupts: []}
"""


def asking():
    text = ASKS.replace(
        "initial: a,", "initial: first,"
    ).replace("stages: {\n", "stages: {\n   first: {kind: train, duration: 1 steps, next: snap},\n"
              "   snap: {kind: train, transitions: [{target: a, when: 'elapsed(1 steps)',"
              " actions: [{type: snapshot, name: s}, {type: save, name: kept}]}]},\n")  # fmt: skip
    return sg.load(text)


FOUND = {
    "main:a.during[0]": "hyper with knob 'clip' asks the Hugging Face Trainer to read "
    "hyper-parameters of its own loop from the graph, which it cannot: it reads its "
    "hyper-parameters from TrainingArguments; hold 'optimizer' or 'attribute' instead of 'knob'",
    "main:a.during[1]": "sequence_length asks the Hugging Face Trainer to steer the data, which it "
    "cannot: its loop makes its own loader once and keeps it to itself; leave it out and order the "
    "data beforehand, or run this graph in a plain loop over engine.epochs(loader)",
    "main:a.transitions[0].actions[0]": "roll_back with data: rewind asks the Hugging Face Trainer "
    "to take the data back to where it was, which it cannot: its loop counts batches forward only; "
    "write data: skip, with what else will differ this time",
    "main:snap.transitions[0].actions[1]": "save asks the Hugging Face Trainer to keep models in "
    "the run's folder, which it cannot: its own checkpoints are the only ones of such a run; let "
    "the trainer save (save_strategy, load_best_model_at_end), and leave it out",
}


def test_what_the_graph_asks_for_in_vain_is_refused_all_at_once(tmp_path):
    model, _, _ = small.gpt2()
    stages = StagegraphCallback(asking())
    trainer = StagedTrainer(
        model, small.arguments(tmp_path), train_dataset=small.Items(), callbacks=[stages]
    )
    assert set(refusal(trainer).split("\n")) == {f"{at}: {why}" for at, why in FOUND.items()}


def test_check_says_it_too():
    found = [one for one in sg.check(asking(), trainer="huggingface") if one.severity == "error"]
    assert {f"{one.message}; {one.remedy}" for one in found} == {
        f"{at}: {why}" for at, why in FOUND.items()
    }
    assert {one.code for one in found} == {"trainer-cannot"}
    assert all(one.pointer for one in found)
    assert not [one for one in sg.check(asking(), trainer="loop") if one.severity == "error"]
    with pytest.raises(
        sg.StageGraphError, match="no trainer 'hugingface'; did you mean 'huggingface'"
    ):
        sg.check(asking(), trainer="hugingface")


def test_the_plain_trainer_is_refused(tmp_path):
    model, _, _ = small.gpt2()
    stages = StagegraphCallback(small.graph())
    args = small.arguments(tmp_path)
    trainer = Trainer(model, args, train_dataset=small.Items(), callbacks=[stages])
    with pytest.raises(UnsupportedError, match="StagegraphCallback alone comes too late"):
        trainer.train()
    with pytest.raises(sg.StageGraphError, match="the engine is made when trainer"):
        stages.engine  # noqa: B018


@pytest.mark.parametrize("number", [0, 2])
def test_a_staged_trainer_has_one_callback(tmp_path, number):
    model, _, _ = small.gpt2()
    callbacks = [StagegraphCallback(small.graph()) for _ in range(number)]
    with pytest.raises(UnsupportedError, match=f"one StagegraphCallback, and {number} were given"):
        StagedTrainer(model, small.arguments(tmp_path), callbacks=callbacks)


def test_a_metric_that_the_evaluation_does_not_give_is_named(tmp_path):
    trainer = small.trainer(tmp_path, small.GROWS.replace("eval_loss:", "val_acc:"))
    with pytest.raises(MetricError, match="wants 'val_acc' evaluated every 3 steps") as caught:
        trainer.train()
    assert "metrics: {val_acc: {source: [eval_...]}}" in str(caught.value)


def test_a_graph_with_errors_is_refused_by_the_callback():
    with pytest.raises(sg.StageGraphError):
        StagegraphCallback(sg.load({
            "stagegraph": 1, "name": "x", "initial": "a",
            "stages": {"a": {"kind": "train", "duration": "1 steps", "next": "nowhere"}},
        }))  # fmt: skip


def test_nothing_heavy_comes_with_the_package():
    code = (
        "import sys, stagegraph, stagegraph.trainers, stagegraph.session.capabilities\n"
        "stagegraph.check\n"
        "heavy = [n for n in ('torch', 'transformers', 'accelerate') if n in sys.modules]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_transformers_it_says_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "try:\n    import stagegraph.trainers.huggingface\n"
        'except ImportError as error:\n    sys.exit(0 if "pip install '
        "'stagegraph[huggingface]'\" in str(error) else str(error))\n"
        "sys.exit('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
