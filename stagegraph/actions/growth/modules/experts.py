"""Experts: the mixture that an MLP becomes, with the MLP itself as expert 0.

Shapes: T tokens, D features read, F features written, E experts, K of them per token.

A router gives each token a weight per expert; the K largest are made to sum to 1. Each expert runs
on the tokens that were sent to it alone; expert 0 is what the host has made already. Experts that
came later bring router rows of their own, in an :class:`Entrants` that fills in their weights. It
blends in as any block does: at alpha their weights are alpha times what the rows say, so that at 0
no token is sent to them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stagegraph.actions.stream import main_output
from stagegraph.errors import UnsupportedError

__all__ = ["Entrants", "Experts", "new_router"]

_LARGEST = 60.0
"""How far ahead, in logits, an expert may be; further ahead it is taken alone all the same."""


def new_router(num_features: int, num_experts: int, *, like: Tensor) -> nn.Linear:
    """A router without a bias, its rows drawn from N(0, 0.02²)."""
    router = nn.Linear(num_features, num_experts, bias=False)
    nn.init.normal_(router.weight, std=0.02)
    return router.to(device=like.device, dtype=like.dtype)


def _made(expert: nn.Module, tokens_TD: Tensor) -> Tensor:
    made = main_output(expert(tokens_TD))
    if made is None:
        raise UnsupportedError(f"an expert, a {type(expert).__name__}, makes no tensor")
    return made


def _logits(router: nn.Module, tokens_TD: Tensor) -> Tensor:
    logits: Tensor = router(tokens_TD)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Entrants(nn.Module):
    """Experts that came to a mixture later.

    Args:
        router: Their router rows.
        experts: The experts, by their number.
    """

    def __init__(self, router: nn.Linear, experts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleDict(experts)

    def forward(self, weights_TE: Tensor, tokens_TD: Tensor, highest_T1: Tensor) -> Tensor:
        """The weights with those of the entrants, which are the last and have been 0."""
        relative = _logits(self.router, tokens_TD) - highest_T1
        own = relative.clamp(max=_LARGEST).exp()
        return torch.cat([weights_TE[:, : -own.shape[1]], own.to(weights_TE.dtype)], 1)


class Experts(nn.Module):
    """A router, and all experts but the host.

    Args:
        router: Its router, a row per expert, the host's first.
        experts: The other experts, from 1.
        top_k: How many a token is sent to.
    """

    def __init__(self, router: nn.Linear, experts: Mapping[str, nn.Module], top_k: int) -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleDict(experts)
        self.entrants = nn.ModuleDict()
        self.top_k = top_k

    @property
    def num_experts(self) -> int:
        """How many experts there are, the host among them."""
        return 1 + len(self.all_experts())

    def all_experts(self) -> list[nn.Module]:
        """All experts but the host, in the order of their numbers."""
        found = list(self.experts.values())
        for later in self._later():
            found += later.experts.values()
        return found

    def all_routers(self) -> list[nn.Module]:
        """The routers, whose rows one after the other are those of all experts."""
        return [self.router, *(later.router for later in self._later())]

    def _later(self) -> list[Entrants]:
        return [later for later in self.entrants.values() if isinstance(later, Entrants)]

    def forward(self, base: Tensor, read: Tensor) -> Tensor:
        """The mixture.

        Args:
            base: What the host made. Shape (..., F).
            read: What it read. Shape (..., D).
        """
        tokens_TD, host_TF = read.reshape(-1, read.shape[-1]), base.reshape(-1, base.shape[-1])
        if len(tokens_TD) != len(host_TF):
            raise UnsupportedError(
                f"an expert reads {tuple(read.shape)} and makes {tuple(base.shape)}: not one for "
                "each token"
            )
        share_TK, chosen_TK = self._route(tokens_TD)
        mixed_TF = torch.zeros_like(host_TF)
        for number, expert in enumerate([None, *self.all_experts()]):
            token, place = (chosen_TK == number).nonzero(as_tuple=True)
            if expert is not None and not token.numel():
                continue
            made = host_TF[token] if expert is None else _made(expert, tokens_TD[token])
            weighed = made * share_TK[token, place].unsqueeze(-1).to(made.dtype)
            mixed_TF = mixed_TF.index_add(0, token, weighed.to(mixed_TF.dtype))
        return mixed_TF.view_as(base)

    def _route(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        logits_TE = _logits(self.router, tokens_TD)
        highest_T1 = logits_TE.detach().amax(1, keepdim=True)
        weights_TE = (logits_TE - highest_T1).exp()
        for later in self._later():
            weights_TE = nn.functional.pad(weights_TE, (0, len(later.experts)))
            weights_TE = later(weights_TE, tokens_TD, highest_T1)
        taken_TK, chosen_TK = weights_TE.topk(self.top_k, 1)
        return taken_TK / taken_TK.sum(1, keepdim=True), chosen_TK
