"""Structure: which parameters a model has, so that a change by others is noticed.

Only the graph's growths change the structure of a model. What the host changes on its own would be
trained by no optimizer, or be unknown to every checkpoint, and would break the lock of a
consolidation; it is found at the next boundary that acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from stagegraph.actions.parameters import shown_name
from stagegraph.errors import UnsupportedError

__all__ = ["Structure"]

_MOST = 4


@dataclass(frozen=True, slots=True)
class _Known:
    """One parameter: which object it is, and its shape, which a lazy one does not have yet."""

    key: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Structure:
    """The parameters of a model at one moment, by the names that it shows.

    Attributes:
        parameters: The parameters.
        trained: ``id`` of each parameter that an optimizer trains.
    """

    parameters: Mapping[str, _Known]
    trained: frozenset[int]

    @classmethod
    def of(cls, model: nn.Module, optimizers: Sequence[Optimizer]) -> Structure:
        """The structure of now."""
        return cls(
            {
                shown_name(name): _Known(id(parameter), _shape(parameter))
                for name, parameter in model.named_parameters(remove_duplicate=False)
            },
            frozenset(
                id(p) for one in optimizers for group in one.param_groups for p in group["params"]
            ),
        )

    def require(self, now: Structure) -> None:
        """Refuse what others have changed since.

        Raises:
            UnsupportedError: Parameters have come, gone, got another shape, or were replaced by
                others that no optimizer trains; all are told, the first by name.
        """
        found = list(self._changes(now))
        if found:
            more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
            raise UnsupportedError(
                "the structure of the model was changed by something else than a growth of the "
                f"graph: {', '.join(found[:_MOST])}{more}; the optimizer, the checkpoints and the "
                "lock of a consolidation know nothing of it. Put the model back as it was, and let "
                "a stage of kind 'grow' make the change"
            )

    def _changes(self, now: Structure) -> Iterator[str]:
        for name, known in self.parameters.items():
            other = now.parameters.get(name)
            if other is None:
                yield f"{name!r} has gone"
            elif known.shape is not None and other.shape != known.shape:
                yield f"{name!r} was {list(known.shape)} and is {list(other.shape or ())}"
            elif (
                other.key != known.key
                and known.key in self.trained
                and other.key not in now.trained
            ):
                yield f"{name!r} is another parameter, which no optimizer trains"
        for name in now.parameters:
            if name not in self.parameters:
                yield f"{name!r} has come"


def _shape(parameter: nn.Parameter) -> tuple[int, ...] | None:
    if isinstance(parameter, UninitializedParameter):
        return None
    return tuple(parameter.shape)
