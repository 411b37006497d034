"""Standing: a model with everything that stagegraph holds of it, at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.attribute_holding import AttributeHolding
from stagegraph.actions.changes import Change, HeadAdded, Pruned
from stagegraph.actions.cohorts import lasting_scales
from stagegraph.actions.companions import Companions
from stagegraph.actions.data.draws import Drawn
from stagegraph.actions.data.steering import Steering
from stagegraph.actions.distilling.teachers import Teacher
from stagegraph.actions.distilling.teaching import Teaching
from stagegraph.actions.freezing import Freezing
from stagegraph.actions.gates import Gates
from stagegraph.actions.growth.attributes import owners_of
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.number_holding import NumberHolding
from stagegraph.actions.optimizing.learning_rates import LearningRates
from stagegraph.actions.probes import Probe
from stagegraph.actions.sharding.units import settle
from stagegraph.actions.snapshots import Snapshot
from stagegraph.schema.spaces import Spaces

__all__ = ["Standing"]


class Standing:
    """The model, its optimizers, and what is held of them.

    Attributes:
        model: The user's model.
        optimizers: Its innermost optimizers.
        companions: Schedulers, scaler, EMA and data.
        probe: The batch on which growth is measured.
        spaces: The spaces that the graph declares.
        parts: What the user gave by name.
        lineage: The structural changes so far; replaced, never changed in place.
        gates: The open gates.
        freezing: What is frozen.
        attributes: The attributes that say which head is in use.
        numbers: The attributes that hold a hyper-parameter.
        steering: What the data is drawn by.
        rates: The learning-rate factors.
        snapshots: Snapshots by id.
        teachers: Teachers by id.
        teaching: What is learnt from them now.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        companions: Companions,
        probe: Probe | None,
        spaces: Spaces,
        parts: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.optimizers = tuple(optimizers)
        self.companions = companions
        self.probe = probe
        self.spaces = spaces
        self.parts = parts
        self._lineage = Lineage()
        self.gates = Gates()
        self.freezing = Freezing()
        self.attributes = AttributeHolding()
        self.numbers = NumberHolding()
        self.rates = LearningRates(self.optimizers)
        self.snapshots: dict[str, Snapshot] = {}
        self.teachers: dict[str, Teacher] = {}
        self.teaching = Teaching()
        self.steering = Steering(companions.data, self._hear)
        self.told: Callable[[Drawn], None] | None = None
        """Called with the first batch that is drawn as a boundary had asked."""
        self._since: int | None = None

    @property
    def lineage(self) -> Lineage:
        """The structural changes so far."""
        return self._lineage

    @lineage.setter
    def lineage(self, lineage: Lineage) -> None:
        """Stand at another lineage; the scales that parameters keep for good follow it."""
        self._lineage = lineage
        settle(self.models)
        scales = lasting_scales(lineage)
        if scales or self.rates.lasting_scales:
            named = dict(self.model.named_parameters(remove_duplicate=False))
            today = {lineage.today(name): scale for name, scale in scales.items()}
            self.rates.lasting_scales = {
                id(named[name]): scale for name, scale in today.items() if name in named
            }

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the model, which grows with it."""
        ema = self.companions.ema
        return ema.module if isinstance(ema, AveragedModel) else None

    @property
    def grown_models(self) -> list[nn.Module]:
        """The model and its averaged copy, each as the model itself is made."""
        return [self.model, *([] if self.averaged is None else [self.averaged])]

    @property
    def models(self) -> list[nn.Module]:
        """The model and its averaged copy."""
        averaged = self.companions.ema
        return [self.model, *([averaged] if isinstance(averaged, AveragedModel) else [])]

    def owners(self) -> list[object]:
        """The objects beside the modules, such as a config, that a growth may change."""
        return [owner for model in self.models for owner in owners_of(model)]

    @property
    def has_heads(self) -> bool:
        """Whether the model has several heads, one of them in use."""
        return bool(self.attributes.values()) or bool(self.added_heads())

    def added_heads(self) -> list[tuple[str, str]]:
        """Where growths have added heads: the dictionary's path, and the name."""
        added = [change for change in self.lineage.changes if isinstance(change, HeadAdded)]
        return [(self.lineage.today(change.heads), change.head) for change in added]

    @property
    def compiled_in(self) -> frozenset[str | int]:
        """What compiled code has taken in and may not see change: hooks, and what is frozen.

        Of a parameter that is trained again torch before 2.12 computes no gradient in code that was
        compiled while it was frozen: its guards pass over ``requires_grad`` (pytorch 177158).
        """
        return frozenset[str | int](self.gates.alphas()) | self.freezing.held

    def _hear(self, drawn: Drawn) -> None:
        """The learning rate goes with the size of the batch in hand."""
        self.rates.batch = drawn.lr_factor
        since, self._since = self._since, drawn.knobs.since
        if self.told is not None and (since is None or since != drawn.knobs.since):
            self.told(drawn)

    def hear_again(self) -> None:
        """The batch in hand is the one that was in hand when the state was saved."""
        drawn = None if self.steering.loader is None else self.steering.loader.drawn
        if drawn is not None:
            self.rates.batch, self._since = drawn.lr_factor, drawn.knobs.since

    def site(self, *, alpha: float = 1.0) -> Site:
        """The model as an operation sees it.

        Args:
            alpha: What the gates of new modules will be set to.
        """
        return Site(
            model=self.model,
            optimizers=self.optimizers,
            lineage=self.lineage,
            probe=self.probe,
            spaces=self.spaces,
            parts=self.parts,
            trains=self.freezing.original,
            alpha=alpha,
        )

    def module(self, stable: str) -> nn.Module:
        """The module of a stable id."""
        return self.model.get_submodule(self.lineage.today(stable))

    def modules_of(self, changes: Sequence[Change]) -> list[str]:
        """Stable ids of the modules that these changes added and that are still in the model."""
        return [module for change in changes for module in self.lineage.alive(change)]

    def release_pruned(self) -> None:
        """Let go of pruned modules that no snapshot goes back to."""
        reached = [len(snapshot.lineage.changes) for snapshot in self.snapshots.values()]
        earliest = min(reached, default=len(self.lineage.changes))
        for change in self.lineage.changes[:earliest]:
            if isinstance(change, Pruned):
                change.aside.release()

    def remember(self) -> Callable[[], None]:
        """A way back to what is held now; the model itself is undone by reference."""
        lineage, snapshots, teachers = self.lineage, dict(self.snapshots), dict(self.teachers)
        held = (
            *(self.gates, self.freezing, self.attributes, self.numbers),
            *(self.rates, self.teaching, self.steering),
        )
        ways = [one.remember() for one in held]

        def way_back() -> None:
            self.lineage, self.snapshots, self.teachers = lineage, snapshots, teachers
            for way in ways:
                way()

        return way_back

    def close(self) -> None:
        """Remove every hook and release everything."""
        self.rates.close()
        self.teaching.close()
        self.teachers.clear()
        self.gates.close()
        self.freezing.close()
        self.attributes.close()
        self.numbers.release()
        self.steering.close()
