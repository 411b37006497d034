"""Refusals: what Accelerate cannot do for a graph, named before the run with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accelerate import Accelerator, DistributedType
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.session.capabilities import capabilities_of, lacks
from stagegraph.trainers.refusals import of_model, of_optimizer

__all__ = ["LEANED_ON", "refuse"]

LEANED_ON = (
    "_dataloaders",
    "_load_model_state_pre_hook",
    "_models",
    "_optimizers",
    "_save_model_state_pre_hook",
)
"""What of the accelerator is not public and is read."""


def refuse(
    accelerator: Accelerator,
    graph: CompiledGraph,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
) -> None:
    """Refuse the run if accelerator, model and graph do not go together.

    Args:
        accelerator: The accelerator.
        graph: The graph.
        model: The model as it was prepared.
        optimizers: The optimizers as they were prepared.

    Raises:
        TypeError: The accelerator is none.
        UnsupportedError: They do not; everything is named at once.
    """
    if not isinstance(accelerator, Accelerator):
        raise TypeError(f"accelerator= takes an Accelerator, got a {type(accelerator).__name__}")
    found = [str(lack) for lack in lacks(graph, capabilities_of("accelerate"))]
    reasons = [*_of_accelerator(accelerator)]
    if not reasons:
        reasons += _of_prepared(accelerator, model, optimizers)
        reasons += of_model(accelerator.unwrap_model(model, keep_torch_compile=False), graph)
        reasons += _of_growth(accelerator, model, graph)
    reasons += [why for one in optimizers for why in of_optimizer(innermost(one))]
    found += [f"Accelerate: {reason}" for reason in reasons]
    if found:
        raise UnsupportedError("\n".join(found))


def _of_accelerator(accelerator: Accelerator) -> Iterator[str]:
    missing = [name for name in LEANED_ON if not hasattr(accelerator, name)]
    if missing:
        yield (
            f"this version's Accelerator has no {', '.join(missing)}, which the adapter leans on; "
            "it was made for accelerate 1.15"
        )
    for is_so, reason in _SETTINGS:
        if is_so(accelerator):
            yield reason


def _plugin(name: str) -> Callable[[Any], bool]:
    return lambda accelerator: getattr(accelerator.state, name, None) is not None


def _is(kind: str) -> Callable[[Any], bool]:
    return lambda accelerator: accelerator.distributed_type == getattr(DistributedType, kind)


def _is_sharded(accelerator: Any) -> bool:
    return bool(_is("FSDP")(accelerator) or _plugin("fsdp_plugin")(accelerator))


def _is_parallel(accelerator: Any) -> bool:
    config = accelerator.parallelism_config
    return config is not None and any(
        getattr(config, f"{one}_enabled", False) for one in ("tp", "cp", "sp")
    )


_SETTINGS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda accelerator: (
            _is("DEEPSPEED")(accelerator) or _plugin("deepspeed_plugins")(accelerator)
        ),
        "DeepSpeed partitions parameters and moments once, and does not see a change of structure "
        "or of what is trained; train without deepspeed_plugin",
    ),
    (
        lambda accelerator: _is_sharded(accelerator) and not accelerator.is_fsdp2,
        "FSDP1 flattens parameters once, and ranks would differ after a change without an error; "
        "train without fsdp_plugin",
    ),
    (
        lambda accelerator: _is_sharded(accelerator) and accelerator.is_fsdp2,
        "FSDP2 shards what is there when the model is prepared, and this adapter does not shard "
        "what is new; train without fsdp_plugin, or in a plain loop",
    ),
    (
        _is("MEGATRON_LM"),
        "Megatron-LM has a loop, a model and an optimizer of its own; train without "
        "megatron_lm_plugin",
    ),
    (
        _is("XLA"),
        "torch-xla compiles the step of one structure; train on a CPU or a CUDA device",
    ),
    (
        _is_parallel,
        "tensor, context and sequence parallelism cut parameters or batches along axes that a "
        "growth changes; train without parallelism_config",
    ),
    (
        lambda accelerator: accelerator.mixed_precision == "fp8",
        "fp8 puts other layers and scales in the place of the model's, which a growth does not "
        "know; use mixed_precision='bf16'",
    ),
)


def _of_prepared(
    accelerator: Any, model: nn.Module, optimizers: Sequence[Optimizer]
) -> Iterator[str]:
    """What :class:`AcceleratedEngine` was given is what ``prepare`` has given."""
    inner = accelerator.unwrap_model(model, keep_torch_compile=False)
    known = [
        accelerator.unwrap_model(one, keep_torch_compile=False)
        for one in accelerator._models  # noqa: SLF001 - accelerate says it nowhere else
    ]
    if not any(inner is one for one in known):
        yield (
            "model= is not what accelerator.prepare(...) gave; prepare it first, and after "
            "accelerator.free_memory() again"
        )
    prepared = [innermost(one) for one in accelerator._optimizers]  # noqa: SLF001 - the same
    for optimizer in optimizers:
        if not any(innermost(optimizer) is one for one in prepared):
            yield (
                f"the {type(optimizer).__name__} of optimizer= is not what "
                "accelerator.prepare(...) gave; prepare it together with the model"
            )


def _of_growth(accelerator: Any, model: nn.Module, graph: CompiledGraph) -> Iterator[str]:
    grows = next((key for key, stage in graph.stages.items() if stage.possible_growths), None)
    if grows is None:
        return
    if "_orig_mod" in vars(model):  # as compile_regions leaves it; torch.compile does otherwise
        yield (
            f"use_regional_compilation makes a second model of compiled blocks, and {grows} would "
            "grow only one of the two, while checkpoints are made of the other; compile the whole "
            "model, or none of it"
        )
    inner = accelerator.unwrap_model(model, keep_torch_compile=False)
    if any("_hf_hook" in vars(part) for part in inner.modules()):
        yield (
            f"the model is dispatched or offloaded by accelerate's hooks, and {grows} grows it: "
            "new blocks would have none; load it onto one device, without device_map"
        )
