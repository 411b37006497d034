"""What cannot be done to a model on several ranks is refused by name, before the run."""

import re

import pytest
from torch import nn
from torch.optim import AdamW

from stagegraph.actions.sharding.refusals import why_not_frozen, why_not_here
from stagegraph.schema.actions import Deepen
from tests.sharded.ranks import Checks
from tests.sharded.small import plain

pytestmark = pytest.mark.xdist_group("ranks")

checks = Checks("tests.sharded.checks_refusing")
DEEPEN = Deepen(type="deepen", stack="blocks", add=1)


def test_deepening_is_not_refused(two):
    assert two.run(checks.accepted) == ["", ""]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("Widen", "widened"),
        ("Prune", "pruned"),
        ("Attach", "changed by attach"),
        ("Inherit", "changed by inherit"),
        ("Regrow", "changed by regrow"),
    ],
)
def test_of_the_growths_only_depth_is_done_on_shards(two, kind, word):
    for said in two.run(checks.action_is_refused, kind):
        assert "emb.weight and" in said
        assert "sharded over ranks (fully_shard), where a model can be deepened" in said
        assert f"but not {word}; do it before fully_shard is called" in said


def test_teachers_and_saved_models_are_not_made_of_shards(two):
    for copied, saved in two.run(checks.what_has_no_copy):
        assert re.search("emb.weight is sharded over ranks, and cannot be copied", copied[0])
        assert re.search("emb.weight is a DTensor", saved[0])


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            checks.tensor_parallelism,
            r"blocks.0.fc2.weight and 3 more are spread over ranks by something else than "
            r"fully_shard \(tensor parallelism\)",
        ),
        (
            checks.tensor_parallelism_within,
            "blocks.0.fc2.weight is under tensor parallelism and fully_shard at once",
        ),
        (checks.rows_that_are_shards, "'scales' has an entry per block and is sharded over ranks"),
        (checks.blocks_sharded_together, r"were sharded together, by one fully_shard\(\[...\]\)"),
        (checks.an_average_that_is_whole, "ema= is not sharded over ranks and the model is"),
    ],
)
def test_what_is_spread_otherwise_is_refused_by_name(two, check, message):
    for said in two.run(check):
        assert re.search(message, said), said


def foreign(base, name, module):
    return type(name, (base,), {"__module__": module})


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        (
            "DeepSpeedEngine",
            "deepspeed.runtime.engine",
            r"head \(DeepSpeedEngine\) is under DeepSp",
        ),
        ("PipelineModule", "deepspeed.runtime.pipe.module", "under DeepSpeed"),
        ("Pipe", "torch.distributed.pipelining._IR", "under pipeline parallelism, where no rank"),
        ("FullyShardedDataParallel", "fairscale.nn", "under fairscale"),
        (
            "FullyShardedDataParallel",
            "torch.distributed.fsdp.fully_sharded_data_parallel",
            r"under FullyShardedDataParallel \(FSDP1\), .*; use torch.*fully_shard",
        ),
    ],
)
def test_other_ways_to_spread_a_model_are_refused_by_name(name, module, message):
    model = plain()
    model.head.__class__ = foreign(nn.Linear, name, module)
    (said,) = why_not_here(model, [], None, DEEPEN)
    assert re.search(message, said), said
    assert why_not_frozen(model) == [said]


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_optimizers_of_few_bits_are_refused_by_name(name):
    model = plain()
    optimizer = foreign(AdamW, name, "bitsandbytes.optim")(model.parameters())
    (said,) = why_not_here(model, [optimizer], None, DEEPEN)
    assert said.startswith(f"{name} keeps its state in few bits")


def test_zero_is_refused_by_name():
    model = plain()
    kind = foreign(
        AdamW, "ZeroRedundancyOptimizer", "torch.distributed.optim.zero_redundancy_optimizer"
    )
    (said,) = why_not_here(model, [kind(model.parameters())], None, DEEPEN)
    assert "ZeroRedundancyOptimizer keeps its state in pieces of its own; use fully_shard" in said


def test_a_plain_model_is_not_refused():
    model = plain()
    assert why_not_here(model, [AdamW(model.parameters())], None, DEEPEN) == []
    assert why_not_frozen(model) == []


def test_a_folder_that_was_to_keep_shards_is_refused(two, tmp_path):
    for said in two.run(checks.kept_in_a_folder, tmp_path):
        assert said == (
            "the model is sharded, and a run's folder keeps no shards: give checkpoints=None, and "
            "save and load with stagegraph.trainers.fsdp2; the folder keeps graph and journal"
        )
    assert (tmp_path / "run" / "journal.jsonl").is_file()
