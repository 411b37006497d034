"""Weights: what is to be inherited, as the user gave it, read into names and tensors."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.parameters import shown_name, unwrapped
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = ["Inheritable", "Weights", "named_weights", "read_weights"]

Inheritable = Mapping[str, Any] | nn.Module | str | os.PathLike[str]
"""A state dict, a model, or the path of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a smaller model.

    Attributes:
        tensors: By name, without what compiling puts into names.
        model: The model, where it was given.
        others: Names of what was there and is no tensor.
    """

    tensors: Mapping[str, Tensor]
    model: nn.Module | None = None
    others: tuple[str, ...] = ()


def named_weights(parts: Mapping[str, Any], name: str, *, place: str) -> Weights:
    """What the user gave under a name.

    Raises:
        SelectorError: Nothing was given so.
        UnsupportedError: It cannot be read.
    """
    if name not in parts:
        near = did_you_mean(name, list(parts)) if parts else ""
        raise SelectorError(
            f"{place}: nobody gave the weights {name!r}{near}; give Engine(parts={{{name!r}: ...}})"
            ": a state dict, a model or the path of a checkpoint"
        )
    return read_weights(parts[name], place=place)


def read_weights(given: Any, *, place: str) -> Weights:
    """The weights that a state dict, a model or a file holds.

    A file is read without running anything in it: safetensors, or what ``torch.save`` wrote, with
    ``weights_only=True``.

    Raises:
        UnsupportedError: It is none of these, or cannot be read, or holds no tensors by name.
    """
    if isinstance(given, nn.Module):
        model = unwrapped(given)
        return _of_mapping(model.state_dict(), place, model)
    if isinstance(given, str | os.PathLike):
        given = _of_file(Path(given), place)
    if isinstance(given, Mapping):
        return _of_mapping(given, place, None)
    raise UnsupportedError(
        f"{place}: weights are a state dict, a model or the path of a checkpoint, got a "
        f"{type(given).__name__}"
    )


def _of_mapping(given: Mapping[str, Any], place: str, model: nn.Module | None) -> Weights:
    tensors = {
        shown_name(str(name)): value.detach()
        for name, value in given.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        inner = [key for key, value in given.items() if isinstance(value, Mapping)]
        hint = f"; it has {', '.join(map(repr, inner))} inside: give that" if inner else ""
        raise UnsupportedError(f"{place}: there is no tensor in the weights{hint}")
    others = tuple(str(name) for name in given if shown_name(str(name)) not in tensors)
    return Weights(tensors, model, others)


def _of_file(path: Path, place: str) -> Any:
    if not path.is_file():
        raise UnsupportedError(f"{place}: there is no file {str(path)!r}")
    if path.suffix == ".safetensors":
        return _of_safetensors(path, place)
    try:
        return _loaded(path)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UnsupportedError(
            f"{place}: {str(path)!r} cannot be read as a checkpoint of tensors alone "
            f"({type(error).__name__}); save model.state_dict() with torch.save or as safetensors"
        ) from error


def _loaded(path: Path) -> Any:
    """The content of a file, its tensors mapped into memory where its format allows that."""
    mapped = zipfile.is_zipfile(path)  # else it was written before torch 1.6
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _of_safetensors(path: Path, place: str) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnsupportedError(
            f"{place}: {str(path)!r} is a safetensors file, and safetensors is not installed; "
            "install it, or give the state dict"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UnsupportedError(f"{place}: {str(path)!r} cannot be read: {error}") from error
