"""What stagegraph does to a torch model: grow, blend in, freeze, scale learning rates, go back."""

from stagegraph.actions.actor import TorchActor
from stagegraph.actions.replaying import replay
from stagegraph.actions.support import inspect

__all__ = ["TorchActor", "inspect", "replay"]
