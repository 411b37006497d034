"""Transformers: what a `transformers` config says about the depth of a stack.

Published models keep their depth in a config that all their modules share, often under several
names, with lists that have an entry per layer beside it. They are known here, so that nobody has to
declare them. Nothing is imported: a config is recognised by the class that it descends from.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stagegraph.actions.growth.depth.counts import Count, around
from stagegraph.errors import UnsupportedError

__all__ = ["config_counts", "is_config", "pretrained_config", "pretrained_models"]

_DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_blocks",
    "depth",
)
_PER_LAYER = ("layer", "block")
_BY_NUMBER = ("num_kv_shared_layers",)
"""Fields by which layers refer to other layers' numbers, which an insertion would shift."""


def is_config(value: object) -> bool:
    """Whether an object is a config of `transformers`."""
    return _descends(value, "pretrainedconfig")


def _descends(value: object, name: str) -> bool:
    return any(
        kind.__name__.lower() == name and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(value).__mro__
    )


def pretrained_config(module: nn.Module) -> Any:
    """The config of a `transformers` model; ``None`` if it is none."""
    config = vars(module).get("config")
    return config if _descends(module, "pretrainedmodel") and is_config(config) else None


def pretrained_models(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The `transformers` models in a model by path, without those inside another."""
    found: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        inside = any(not outer or path.startswith(f"{outer}.") for outer, _ in found)
        if not inside and pretrained_config(module) is not None:
            found.append((path, module))
    return found


def config_counts(model: nn.Module, stack: str, size: int, *, place: str) -> list[Count]:
    """The fields of the configs around a stack that count its layers, or have an entry for each.

    Args:
        model: The model.
        stack: Path of the stack.
        size: How many layers it has.
        place: Where the growth is written, for the message.

    Raises:
        UnsupportedError: A field refers to layers by number, and cannot be carried along.
    """
    found: list[Count] = []
    for path, owner in around(model, stack):
        if not is_config(owner):
            continue
        depths = _depths(owner, size)
        if "decoder" not in path:  # a decoder with a config of its own counts by any name
            depths = _of_this_side(depths, stack)
        depths = depths or _stage_depth(owner, stack, size)
        if not depths:
            continue
        _refuse_numbers(owner, path, place)
        names = depths + _of_this_side(_lists(owner, size), stack)
        found += [_count(path, owner, name) for name in names]
    return found


def _count(path: str, config: Any, name: str) -> Count:
    name, _, index = name.partition(".")
    if index:
        return Count(f"{path}.{name}.{index}", getattr(config, name), index)
    return Count(f"{path}.{name}", config, name)


def _stage_depth(config: Any, stack: str, size: int) -> list[str]:
    """The entry of ``depths`` that is about the stage that a stack is in, as ``depths.1``."""
    depths = vars(config).get("depths")
    numbers = [int(part) for part in stack.split(".") if part.isdigit()]
    if not isinstance(depths, list) or not numbers or numbers[-1] >= len(depths):
        return []
    return [f"depths.{numbers[-1]}"] if depths[numbers[-1]] == size else []


def _depths(config: Any, size: int) -> list[str]:
    held = vars(config)
    return [name for name in _DEPTHS if isinstance(held.get(name), int) and held[name] == size]


def _of_this_side(names: list[str], stack: str) -> list[str]:
    """Of an encoder and a decoder in one config, the names that are about this stack's."""
    if "decoder" not in stack:
        return [name for name in names if "decoder" not in name]
    own = [name for name in names if "decoder" in name]
    return own or [name for name in names if "encoder" not in name]


def _lists(config: Any, size: int) -> list[str]:
    return [
        name
        for name, value in vars(config).items()
        if isinstance(value, list | tuple)
        and len(value) == size
        and any(part in name for part in _PER_LAYER)
    ]


def _refuse_numbers(config: Any, path: str, place: str) -> None:
    for name in _BY_NUMBER:
        value = vars(config).get(name)
        if value:
            raise UnsupportedError(
                f"{place}: {path}.{name} is {value!r}: layers of this {type(config).__name__} use "
                "what others have computed, by their numbers, which new layers would shift; "
                "stagegraph cannot grow such a stack"
            )
