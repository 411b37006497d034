"""FLOPs: what one sample costs in training, counted on the probe as torch counts it.

``torch.utils.flop_counter`` counts what matrix products, convolutions and attention take, forward
and backward, two per multiplication with addition; pointwise operations it leaves out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stagegraph.actions.contents import tensors_in
from stagegraph.actions.probes import Probe, Within, call, probe_loss
from stagegraph.actions.undo import untouched

__all__ = ["count_flops", "samples_in"]


def samples_in(probe: Probe | None) -> int | None:
    """How many samples a probe holds: the first axis of its first tensor.

    ``None`` for a function of the model, whose batch nobody sees.
    """
    probe = probe.batch if isinstance(probe, Within) else probe
    if probe is None or (callable(probe) and not isinstance(probe, Tensor)):
        return None
    first = next((tensor for tensor in tensors_in(probe) if tensor.dim()), None)
    return None if first is None or not len(first) else len(first)


def count_flops(model: nn.Module, probe: Probe) -> int:
    """The floating-point operations of one forward and backward pass on the probe.

    What is frozen needs no gradient and is not paid for. The model is left as it was: buffers,
    modes, gradients and random numbers.

    Args:
        model: The model, in training mode or not; what is counted does not hang on that.
        probe: The batch.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with untouched(model), FlopCounterMode(display=False) as counter:
        if not trained:
            with torch.no_grad():
                call(model, probe)
        else:
            loss = probe_loss(model, probe)
            if loss.requires_grad:
                torch.autograd.grad(loss, trained, allow_unused=True)
    return int(counter.get_total_flops())
