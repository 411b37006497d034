"""Standing: a model with everything that stagegraph holds of it, at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.changes import Change
from stagegraph.actions.companions import Companions
from stagegraph.actions.freezing import Freezing
from stagegraph.actions.gates import Gates
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.learning_rates import LearningRates
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.probes import Probe
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
        rates: The learning-rate factors.
        snapshots: Snapshots by id.
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
        self.lineage = Lineage()
        self.gates = Gates()
        self.freezing = Freezing()
        self.rates = LearningRates(self.optimizers)
        self.snapshots: dict[str, Snapshot] = {}

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the model, which grows with it."""
        ema = self.companions.ema
        return ema.module if isinstance(ema, AveragedModel) else None

    @property
    def models(self) -> list[nn.Module]:
        """The model and its averaged copy."""
        averaged = self.companions.ema
        return [self.model, *([averaged] if isinstance(averaged, AveragedModel) else [])]

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
        """Stable ids of the modules that these changes added."""
        return [module for change in changes for module in change.modules]

    def remember(self) -> Callable[[], None]:
        """A way back to what is held now; the model itself is undone by reference."""
        lineage, snapshots = self.lineage, dict(self.snapshots)
        ways = (self.gates.remember(), self.freezing.remember(), self.rates.remember())

        def way_back() -> None:
            self.lineage, self.snapshots = lineage, snapshots
            for way in ways:
                way()

        return way_back

    def close(self) -> None:
        """Remove every hook and release everything."""
        self.rates.close()
        self.gates.close()
        self.freezing.close()
