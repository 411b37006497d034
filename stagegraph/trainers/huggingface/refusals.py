"""Refusals: what this host cannot do for a graph, named before the run with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.session.capabilities import capabilities_of, lacks
from stagegraph.trainers.refusals import of_model, of_optimizer, why_not

__all__ = ["LEANED_ON", "refuse"]

_CUTS = ("tp", "cp", "sp", "ep", "dp_shard")
"""What a ``parallelism_config`` may cut the model or its batches by."""

LEANED_ON = (
    "_determine_best_metric",
    "_get_output_dir",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_rng_state",
    "_maybe_log_save_evaluate",
    "_run_epoch",
    "_save_checkpoint",
)
"""Methods of the Trainer that are not public and that the mixin overrides or calls."""


def refuse(trainer: Any, graph: CompiledGraph, *, monitored: bool) -> None:
    """Refuse the run if host, settings and graph do not go together.

    Args:
        trainer: The Trainer.
        graph: The graph.
        monitored: Whether the engine has a monitor, which measures metrics without the Trainer.

    Raises:
        UnsupportedError: They do not; everything is named at once.
    """
    found = [str(lack) for lack in lacks(graph, capabilities_of("huggingface"))]
    found += [f"Trainer: {reason}" for reason in _of_trainer(trainer)]
    found += [f"Trainer: {reason}" for reason in of_model(trainer.model, graph)]
    asking = [name for name, one in graph.graph.metrics.items() if one.every is not None]
    if asking and trainer.eval_dataset is None and not monitored:
        found.append(
            f"Trainer: the graph has {', '.join(map(repr, asking))} evaluated, and there is no "
            "eval_dataset; give one, or StagegraphCallback(monitor=...)"
        )
    if found:
        raise UnsupportedError("\n".join(found))


def _of_trainer(trainer: Any) -> Iterator[str]:
    missing = [name for name in LEANED_ON if not callable(getattr(trainer, name, None))]
    if missing:
        yield (
            f"this version of transformers has no {', '.join(missing)}, which the adapter leans "
            "on; it was made for 5.24"
        )
    for is_so, reason in _SETTINGS:
        if is_so(trainer):
            yield reason
    optim = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if trainer.optimizer is not None:
        yield from of_optimizer(trainer.optimizer)
    elif (why := why_not(optim)) is not None:
        yield f"optim={optim!r} {why}; use optim='adamw_torch' or the like"


def _sharded(trainer: Any) -> bool:
    return bool(trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled)


def _other_than_replicas(trainer: Any) -> bool:
    """Whether several processes do anything else than train replicas of one model."""
    mode = str(getattr(trainer.args.parallel_mode, "value", trainer.args.parallel_mode))
    config = getattr(trainer.accelerator, "parallelism_config", None)
    cut = config is not None and any(getattr(config, f"{one}_enabled", False) for one in _CUTS)
    loaded = bool(getattr(trainer, "is_distributed_loading_by_transformers", False))
    return not _sharded(trainer) and (mode != "distributed" or cut or loaded)


_SETTINGS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda trainer: bool(trainer.is_deepspeed_enabled),
        "deepspeed partitions parameters and moments once, and does not see a change of structure "
        "or of what is trained; train without deepspeed",
    ),
    (
        _sharded,
        "fsdp shards parameters once, and ranks would differ after a change without an error; "
        "train without fsdp",
    ),
    (
        lambda trainer: trainer.args.world_size > 1 and _other_than_replicas(trainer),
        "several processes that are not each a replica of the model cannot follow a change of its "
        "parameters; train under DistributedDataParallel: without parallelism_config, tp_plan and "
        "distributed_config, on CPUs or CUDA devices, started by torchrun or accelerate launch",
    ),
    (
        lambda trainer: trainer.args.world_size > 1 and bool(trainer.args.save_on_each_node),
        "save_on_each_node keeps a checkpoint on each node, and nobody could see whether all of "
        "them are whole; leave it out, with an output_dir that all nodes see",
    ),
    (
        lambda trainer: trainer.args.world_size > 1 and bool(trainer.args.ddp_static_graph),
        "ddp_static_graph promises that the same parameters are used for ever, and the graph "
        "changes them; leave it out",
    ),
    (
        lambda trainer: trainer.args.n_gpu > 1,
        "with several GPUs in one process it wraps the model in torch's DataParallel, whose "
        "replicas do not have the engine's hooks; set CUDA_VISIBLE_DEVICES to one of them",
    ),
    (
        lambda trainer: bool(trainer.args.auto_find_batch_size),
        "auto_find_batch_size begins the loop again with another batch size, in mid-run too; set "
        "per_device_train_batch_size",
    ),
    (
        lambda trainer: trainer.model_init is not None,
        "model_init makes another model when training begins, which the engine does not hold; "
        "give model=model_init() (hyper-parameter search with a graph: one Trainer per trial)",
    ),
)
