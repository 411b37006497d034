"""stagegraph: train neural networks in stages, declared as a graph.

Author a graph (:func:`load`), prove it (:func:`check`), see it (:func:`render`), try it on numbers
(:func:`simulate`), run it in your training loop (:class:`Engine`).

Nothing is imported before it is asked for; ``import stagegraph`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagegraph.actions.data.curriculum import CurriculumLoader as CurriculumLoader
    from stagegraph.actions.data.sampling import SeededSampler as SeededSampler
    from stagegraph.actions.inheriting import InheritReport as InheritReport
    from stagegraph.actions.inheriting import inherit as inherit
    from stagegraph.actions.optimizing.state_rules import register_state as register_state
    from stagegraph.drawing.render import render as render
    from stagegraph.engine.explain import Explanation as Explanation
    from stagegraph.engine.simulate import Interval as Interval
    from stagegraph.engine.simulate import Simulation as Simulation
    from stagegraph.engine.simulate import simulate as simulate
    from stagegraph.errors import ActionError as ActionError
    from stagegraph.errors import CommandError as CommandError
    from stagegraph.errors import Defect as Defect
    from stagegraph.errors import DocumentError as DocumentError
    from stagegraph.errors import GraphError as GraphError
    from stagegraph.errors import MetricError as MetricError
    from stagegraph.errors import MissingFact as MissingFact
    from stagegraph.errors import ProgressError as ProgressError
    from stagegraph.errors import RankError as RankError
    from stagegraph.errors import RunFolderError as RunFolderError
    from stagegraph.errors import SelectorError as SelectorError
    from stagegraph.errors import SnapshotError as SnapshotError
    from stagegraph.errors import StageGraphError as StageGraphError
    from stagegraph.errors import UnsupportedError as UnsupportedError
    from stagegraph.graph.findings import Finding as Finding
    from stagegraph.progress import Duration as Duration
    from stagegraph.progress import Progress as Progress
    from stagegraph.progress import Unit as Unit
    from stagegraph.runs.saved import Saved as Saved
    from stagegraph.schema.building import overlapping as overlapping
    from stagegraph.schema.building import sequential as sequential
    from stagegraph.schema.dump import digest as digest
    from stagegraph.schema.dump import dump as dump
    from stagegraph.schema.expansion import expand as expand
    from stagegraph.schema.load import load as load
    from stagegraph.schema.stagegraph import StageGraph as StageGraph
    from stagegraph.schema.templates.builders import context_extension as context_extension
    from stagegraph.schema.templates.builders import gradual_unfreezing as gradual_unfreezing
    from stagegraph.schema.templates.builders import grow_cycle as grow_cycle
    from stagegraph.schema.templates.builders import spike_rule as spike_rule
    from stagegraph.schema.templates.builders import warmup_stable_decay as warmup_stable_decay
    from stagegraph.schema.templates.context_extension import ContextExtension as ContextExtension
    from stagegraph.schema.templates.gradual_unfreezing import (
        GradualUnfreezing as GradualUnfreezing,
    )
    from stagegraph.schema.templates.grow_cycle import GrowCycle as GrowCycle
    from stagegraph.schema.templates.spike_rule import SpikeRule as SpikeRule
    from stagegraph.schema.templates.warmup_stable_decay import (
        WarmupStableDecay as WarmupStableDecay,
    )
    from stagegraph.session.check import check as check
    from stagegraph.session.checkpoints import Checkpoints as Checkpoints
    from stagegraph.session.engine import Engine as Engine
    from stagegraph.session.job import Job as Job
    from stagegraph.session.preemption import Preempted as Preempted
    from stagegraph.session.saved import load_saved as load_saved
    from stagegraph.session.saved import saved as saved
    from stagegraph.session.spaces import propose_spaces as propose_spaces
    from stagegraph.session.terminal import Terminal as Terminal
    from stagegraph.version import __version__ as __version__

_HOMES = {
    "ActionError": "errors",
    "Checkpoints": "session.checkpoints",
    "CommandError": "errors",
    "ContextExtension": "schema.templates.context_extension",
    "CurriculumLoader": "actions.data.curriculum",
    "Defect": "errors",
    "DocumentError": "errors",
    "Duration": "progress",
    "Engine": "session.engine",
    "Explanation": "engine.explain",
    "Finding": "graph.findings",
    "GradualUnfreezing": "schema.templates.gradual_unfreezing",
    "GraphError": "errors",
    "GrowCycle": "schema.templates.grow_cycle",
    "InheritReport": "actions.inheriting",
    "Interval": "engine.simulate",
    "Job": "session.job",
    "MetricError": "errors",
    "MissingFact": "errors",
    "Preempted": "session.preemption",
    "Progress": "progress",
    "ProgressError": "errors",
    "RankError": "errors",
    "RunFolderError": "errors",
    "Saved": "runs.saved",
    "SeededSampler": "actions.data.sampling",
    "SelectorError": "errors",
    "Simulation": "engine.simulate",
    "SnapshotError": "errors",
    "SpikeRule": "schema.templates.spike_rule",
    "StageGraph": "schema.stagegraph",
    "StageGraphError": "errors",
    "Terminal": "session.terminal",
    "Unit": "progress",
    "UnsupportedError": "errors",
    "WarmupStableDecay": "schema.templates.warmup_stable_decay",
    "__version__": "version",
    "check": "session.check",
    "context_extension": "schema.templates.builders",
    "digest": "schema.dump",
    "dump": "schema.dump",
    "expand": "schema.expansion",
    "gradual_unfreezing": "schema.templates.builders",
    "grow_cycle": "schema.templates.builders",
    "inherit": "actions.inheriting",
    "load": "schema.load",
    "load_saved": "session.saved",
    "overlapping": "schema.building",
    "propose_spaces": "session.spaces",
    "register_state": "actions.optimizing.state_rules",
    "render": "drawing.render",
    "saved": "session.saved",
    "sequential": "schema.building",
    "simulate": "engine.simulate",
    "spike_rule": "schema.templates.builders",
    "warmup_stable_decay": "schema.templates.builders",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the table is the one list of names


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stagegraph' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"stagegraph.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
