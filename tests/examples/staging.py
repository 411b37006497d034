"""Short real runs of the documents of the examples: durations cut, a small model, any curve."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

import stagegraph as sg
from stagegraph.engine.ports import Actor
from stagegraph.runs.folder import RunFolder
from stagegraph.session.recording import Recording
from stagegraph.testing.fingerprints import fingerprint
from tests.runs.disks import Quick
from tests.session.training import PROBE, WIDTH, Block, Records, moments, weights

GRAPHS = Path(__file__).parents[2] / "examples" / "graphs"
SHORTER = 100
"""How many updates of a document are one update here."""

Curve = Callable[[int], float]


def shortened(text: str, *, params: str = "") -> sg.StageGraph:
    """The document with a hundredth of its updates, and, if asked for, other room to grow in."""
    text = re.sub(r"(?<![\w.])(\d+)(k?) steps", lambda m: f"{_fewer(m)} steps", text)
    text = re.sub(r"(?<=steps: )(\d+)(k?)", lambda m: str(_fewer(m)), text)
    text = re.sub(
        r"(?<=left\(steps\) )([<>]=? )(\d+)", lambda m: m[1] + str(int(m[2]) // 100), text
    )
    if params:
        text = re.sub(r"(?<=params: )\w+", params, text)
    return sg.load(text)


def _fewer(match: re.Match[str]) -> int:
    updates = int(match[1]) * (1000 if match[2] else 1)
    return max(1, updates // SHORTER)


class Model(nn.Module):
    """Residual blocks on a batch norm, and heads of which an attribute says which is in use."""

    def __init__(self, blocks: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.inp = nn.Linear(4, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(blocks))
        self.heads = nn.ModuleDict({"coarse": nn.Linear(WIDTH, 1)})
        self.active_head = "coarse"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.inp(x))
        for block in self.blocks:
            x = block(x)
        return self.heads[self.active_head](x)


class Items(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Twelve numbers to learn, the later ones harder."""

    def __init__(self) -> None:
        self.x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.x[index].sum(0, keepdim=True)


def loader() -> Any:
    """One batch is one pass over what the level admits: an epoch is a hundred updates."""
    return sg.CurriculumLoader(
        Items(), batch_size=12, seed=1, score=[float(n) for n in range(12)], levels=3
    )


def measured(model: nn.Module) -> dict[str, torch.Tensor]:
    """What the engine measures by itself: never so much worse that all is undone."""
    return {"probe_loss": 100 + (model(PROBE) - PROBE.sum(1, keepdim=True).sin()).pow(2).mean()}


class _Engine(sg.Engine):
    """An engine whose folder is not forced to the disk: no process dies here."""

    def _open(self, run: RunFolder, options: sg.Checkpoints, actor: Actor) -> Recording:
        return super()._open(RunFolder(run.path, disk=Quick()), options, actor)


@dataclass
class Task:
    """A training function, run by an engine with a folder, that can be cut after any update.

    Args:
        graph: The graph.
        curves: The metrics, as functions of the clock in the document's own updates.
        model: What makes the model.
        parts: What the graph names and only code can give.
    """

    graph: sg.StageGraph
    curves: Mapping[str, Curve]
    model: Callable[[], nn.Module] = Model
    parts: Callable[[], Mapping[str, Any]] = dict

    def live(self, folder: Path, after: Callable[[Run], bool]) -> Run:
        """Train in a folder, or go on in it, until the end or until ``after`` says enough."""
        torch.manual_seed(1)
        model = self.model()
        heads = [p for name, p in model.named_parameters() if name.startswith("heads.")]
        apart = {id(p) for p in heads}
        groups = [{"params": [p for p in model.parameters() if id(p) not in apart]}]
        optimizer = AdamW([*groups, {"params": heads, "name": "head"}], lr=0.02)
        scheduler = LambdaLR(optimizer, lambda step: 0.999**step)
        data = loader()
        engine = _Engine(
            self.graph,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            data=data,
            probe=PROBE,
            parts=self.parts(),
            monitor=measured if "probe_loss" in self.graph.metrics else None,
            run=folder,
            checkpoints=sg.Checkpoints(every="40 steps", keep=2, background=False),
        )
        run = Run(folder, model, optimizer, scheduler, engine)
        engine.listen(run.records)
        frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
        with engine:
            if engine.resume():
                run.began = engine.state_dict()["engine"]["spent"].get("step", 0)
            for epoch in engine.epochs(data):
                for x, y in epoch:
                    self._update(run, x, y)
                    if after(run):
                        return run
        assert [n for n, p in model.named_parameters() if not p.requires_grad] == frozen
        return run

    def _update(self, run: Run, x: torch.Tensor, y: torch.Tensor) -> None:
        engine, curves = run.engine, dict(self.curves)
        out = run.model.train()(x)
        loss = engine.loss((out - y).pow(2).mean(), outputs=out, inputs=x)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.scheduler.step()
        run.losses.append(loss.item())
        now = (engine.progress.step + 1) * SHORTER
        each = {name: curves.pop(name)(now) for name in ("grad_norm",) if name in curves}
        engine.step(**each, samples=len(x))
        if engine.wants_evaluation:
            now = engine.progress.step * SHORTER
            engine.observe(**{name: curve(now) for name, curve in curves.items()})


@dataclass
class Run:
    """One life of a run."""

    folder: Path
    model: nn.Module
    optimizer: AdamW
    scheduler: LambdaLR
    engine: sg.Engine
    records: Records = field(default_factory=Records)
    losses: list[float] = field(default_factory=list)
    began: int = 0

    @property
    def updates(self) -> int:
        """Updates ever made, those of abandoned branches too."""
        return self.began + len(self.losses)

    def fingerprint(self) -> str:
        """Everything that must be the same in a run that was cut: all of it, as one digest."""
        return fingerprint(
            (
                weights(self.model),
                moments(self.model, self.optimizer),
                self.scheduler.state_dict(),
                torch.get_rng_state().tolist(),
                _timeless(self.engine.state_dict()),
            )
        )


def _timeless(state: Any) -> Any:
    """A state without seconds, and without what a resume after this point would play again."""
    if isinstance(state, dict):
        kept = {key: value for key, value in state.items() if key not in ("seconds", "replay")}
        return {key: _timeless(value) for key, value in kept.items()}
    return [_timeless(one) for one in state] if isinstance(state, list | tuple) else state


def shown(run: Run) -> list[str]:
    """The stages that were entered."""
    return [record["target"].removeprefix("main:") for record in run.records.of("move")]


def falling(step: int) -> float:
    """A loss that falls ever more slowly."""
    return 2 + 300 / (step + 100)


def noisy(step: int) -> float:
    """The same with a little noise."""
    return falling(step) + 0.001 * math.sin(step * 12.9898)
