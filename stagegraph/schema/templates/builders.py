"""Templates filled in from Python: amounts, guards and actions as texts and dicts, or as models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from stagegraph.errors import Defect, DocumentError
from stagegraph.progress import Duration
from stagegraph.schema.base import Model
from stagegraph.schema.levels import Curve
from stagegraph.schema.load import load
from stagegraph.schema.templates.context_extension import ContextExtension
from stagegraph.schema.templates.gradual_unfreezing import GradualUnfreezing
from stagegraph.schema.templates.grow_cycle import GrowCycle, Undo
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.template import Template
from stagegraph.schema.templates.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "context_extension",
    "gradual_unfreezing",
    "grow_cycle",
    "spike_rule",
    "warmup_stable_decay",
]

Amount = str | Duration
"""Such as ``"2k steps"``."""

Said = str | Model | Mapping[str, Any]
"""A guard, an activity or an action: a text where one will do, a dict as in a document, a model."""

T = TypeVar("T", bound=Template)


def grow_cycle(  # noqa: PLR0913 - one keyword per field
    *,
    growth: Sequence[Said],
    warmup: Amount,
    consolidate: Amount,
    trigger: Said | None = None,
    wait: Amount | None = None,
    otherwise: Literal["grow", "skip"] = "grow",
    curve: Curve = "cosine",
    lr_start: float = 0.0,
    blend: bool = True,
    settle: Amount | None = None,
    settle_factor: float = 0.3,
    until: Said | None = None,
    undo: Undo | Mapping[str, Any] | None = None,
    during: Sequence[Said] = (),
) -> GrowCycle:
    """Wait, grow, warm up, settle, consolidate; the fields are those of :class:`GrowCycle`.

    >>> cycle = grow_cycle(growth=[{"type": "widen", "space": "mlp", "factor": 2}],
    ...                    trigger="plateau(val_loss, worth=1%)", wait="6k steps",
    ...                    warmup="500 steps", consolidate="2k steps")
    >>> str(cycle.wait)
    '6000 steps'

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    return _filled_in(GrowCycle, locals())


def gradual_unfreezing(
    *,
    groups: Sequence[str | Sequence[str]],
    every: Amount,
    when: Said | None = None,
    warmup: Amount | None = None,
    curve: Curve = "linear",
    lr_decay: float = 1.0,
    last: Amount | None = None,
    norms: Literal["keep", "eval"] = "keep",
) -> GradualUnfreezing:
    """Thaw a model from the top down; the fields are those of :class:`GradualUnfreezing`.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    return _filled_in(GradualUnfreezing, locals())


def warmup_stable_decay(
    *,
    stable: Amount | Sequence[Amount],
    decay: Amount | Sequence[Amount],
    warmup: Amount | None = None,
    curve: Curve = "linear",
    end: float = 0.0,
    data: Literal["rewind", "skip"] = "rewind",
    save: bool = True,
    decay_during: Sequence[Said] = (),
) -> WarmupStableDecay:
    """Anneal several times off one trunk; the fields are those of :class:`WarmupStableDecay`.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    return _filled_in(WarmupStableDecay, locals())


def context_extension(  # noqa: PLR0913 - one keyword per field
    *,
    space: str,
    lengths: int | Sequence[int],
    warmup: Amount,
    train: Amount,
    rope_base: float | Sequence[float] = (),
    data: bool = False,
    init: Literal["last", "mean", "interpolate", "zero"] = "last",
    curve: Curve = "linear",
    lr_start: float = 0.0,
) -> ContextExtension:
    """Longer sequences in steps; the fields are those of :class:`ContextExtension`.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    return _filled_in(ContextExtension, locals())


def spike_rule(  # noqa: PLR0913 - one keyword per field
    *,
    metric: str,
    every: Amount,
    at_most: int,
    by: str | float = 0.5,
    lasting: Amount | None = None,
    nonfinite: int = 1,
    when: Said | None = None,
    data: Literal["skip", "rewind"] = "skip",
    skip_batches: int | None = None,
    lr_factor: float | None = None,
    then: Literal["go_on", "stop"] = "go_on",
) -> SpikeRule:
    """Rewind and skip; the fields are those of :class:`SpikeRule`.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    return _filled_in(SpikeRule, locals())


def _filled_in(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A template, read as it would be in a document; what is wrong is told by field."""
    place = "/stages/part/with"
    given = {key: value for key, value in fields.items() if value is not None}
    stage = {"use": kind.template, "with": given, **({"next": "part"} if kind.ends else {})}
    document = {"stagegraph": 1, "name": "part", "initial": "part", "stages": {"part": stage}}
    try:
        graph = load(document)
    except DocumentError as error:
        defects = [Defect(one.message, one.pointer.removeprefix(place)) for one in error.defects]
        raise DocumentError(f"<{kind.template}>", defects) from None
    read = graph.all_regions["main"].stages["part"]
    filled_in: T = read.with_  # type: ignore[union-attr, assignment]
    return filled_in
