"""Stages: each kind is a promise that the checks prove and the engine keeps."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.actions import Action
from stagegraph.schema.activities import During
from stagegraph.schema.amounts import Factor, Share
from stagegraph.schema.base import Model, Note, Seq
from stagegraph.schema.names import MetricName, Name, Reference
from stagegraph.schema.templates.context_extension import UseContextExtension
from stagegraph.schema.templates.gradual_unfreezing import UseGradualUnfreezing
from stagegraph.schema.templates.grow_cycle import UseGrowCycle
from stagegraph.schema.templates.sequential import UseSequential
from stagegraph.schema.templates.spike_rule import UseSpikeRule
from stagegraph.schema.templates.template import UseTemplate
from stagegraph.schema.templates.warmup_stable_decay import UseWarmupStableDecay
from stagegraph.schema.transitions import Transition

__all__ = [
    "Consolidate",
    "Final",
    "Grow",
    "GrowthOption",
    "Settle",
    "Stage",
    "TimedStage",
    "Train",
    "Trial",
    "Use",
    "Warmup",
]

Actions = Annotated[Seq[Action], Field(max_length=100)]


class StageModel(Model):
    """What every stage has."""

    instant: ClassVar[bool] = False
    """Whether it takes no time: a move goes through it."""
    structural: ClassVar[bool] = False
    """Whether it may change the model's shape."""
    note: Note | None = None
    """A remark for people."""


class TimedStage(StageModel):
    """A stage that training stays in for a while."""

    during: Annotated[Seq[During], Field(max_length=100)] = ()
    """Activities that live with the stage: in place, or names from ``activities:``."""
    actions: Actions = ()
    """What to do at each entry."""
    transitions: Annotated[Seq[Transition], Field(max_length=200)] = ()
    """The ways out, in order."""
    min_duration: Duration | None = None
    """Transitions and ``next`` wait at least so long; interrupts do not."""
    next: Reference | None = None
    """Where to go when the stage is completed."""


class Train(TimedStage):
    """Ordinary training; no change of the model's shape."""

    kind: Literal["train"]
    duration: Duration | None = None
    """When the stage is completed."""


class GrowthOption(Model):
    """One of the growths that a stage can choose from."""

    name: Name
    """What it is called in the journal."""
    actions: Annotated[Actions, Field(min_length=1)]
    """What to do, in order; at least one growth."""


Options = Annotated[Seq[GrowthOption], Field(max_length=100)]


def _refuse_same_names(options: tuple[GrowthOption, ...]) -> None:
    names = [option.name for option in options]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two options are called {twice!r}; give each a name of its own")


class Grow(StageModel):
    """Change the model's shape; takes no time, and leads on through ``next`` at once.

    The growth stands in ``actions``; or there are several in ``options``, of which each entry takes
    one.
    """

    instant: ClassVar = True
    structural: ClassVar = True
    kind: Literal["grow"]
    actions: Actions = ()
    """What to do, in order; without ``options`` at least one growth."""
    options: Options = ()
    """Growths of which each entry takes one, after ``actions``."""
    choose: Literal["next", "largest"] | None = None
    """Which option: ``next`` (the default) takes each once, in their order; ``largest`` the one
    that adds the most parameters. Either passes over what does not fit ``params``."""
    next: Reference
    """The stage that follows at once: a warm-up, settle or consolidate."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Grow:
        if not self.actions and not self.options:
            raise ValueError("a grow stage has 'actions' with a growth, or 'options' of growths")
        if self.choose is not None and not self.options:
            raise ValueError("'choose' chooses among 'options'; there are none")
        _refuse_same_names(self.options)
        return self

    @property
    def policy(self) -> Literal["next", "largest"]:
        """How an option is chosen."""
        return self.choose or "next"


class Trial(StageModel):
    """Try several growths for a while from one state, and keep the best."""

    structural: ClassVar = True
    kind: Literal["trial"]
    options: Annotated[Options, Field(min_length=1)]
    """The growths to compare."""
    over: Duration
    """How long each is trained before they are compared."""
    metric: MetricName
    """What to compare, by its goal."""
    worth: Share | None = None
    """How much better than going on without growth the best must be, as a share; that is tried
    too, then."""
    next: Reference
    """The stage that follows with the best option."""
    otherwise: Reference | None = None
    """The stage that follows, without growth, if no option is worth it or can be had."""

    @model_validator(mode="after")
    def _something_to_compare(self) -> Trial:
        if len(self.options) < 2 and self.worth is None:
            raise ValueError(
                "one option alone has nothing to be compared with; add another, or 'worth' to "
                "compare it with no growth"
            )
        if self.worth is not None and self.otherwise is None:
            raise ValueError("'worth' needs 'otherwise', the stage to enter if none is worth it")
        _refuse_same_names(self.options)
        saving = (o.name for o in self.options if any(a.type == "save" for a in o.actions))
        if (name := next(saving, None)) is not None:
            raise ValueError(
                f"option {name!r} saves: what stands there when it begins is the option that was "
                "tried before; save on the way into the trial, or where a later stage is left"
            )
        return self


class Warmup(TimedStage):
    """Ease something in with ramps; completed when all of them have ended."""

    kind: Literal["warmup"]
    during: Annotated[Seq[During], Field(min_length=1, max_length=100)]
    """Activities; at least one ramp."""


class Settle(TimedStage):
    """Cut every learning rate by a factor, released on the way out."""

    kind: Literal["settle"]
    lr_factor: Annotated[Factor, Field(gt=0, le=1)]
    """The factor."""
    duration: Duration | None = None
    """When the stage is completed."""


class Consolidate(TimedStage):
    """Training under a structure lock: no change of the model's shape."""

    kind: Literal["consolidate"]
    duration: Duration | None = None
    """When the stage is completed."""


class Final(StageModel):
    """The end of its region; holds nothing and is never left."""

    kind: Literal["final"]


class Use(Model):
    """The stages of an entry of ``graphs:``, put in here under this stage's name."""

    use: Name
    """The entry."""
    next: Reference
    """Where its final stages lead."""
    note: Note | None = None
    """A remark for people."""


def _stage_tag(value: Any) -> str | None:
    """The kind; ``use`` for an entry of ``graphs:``; ``use NAME`` for a template with ``with``."""
    if isinstance(value, dict):
        if "use" not in value:
            kind = value.get("kind")
            return kind if isinstance(kind, str) else None
        name = value["use"]
        return f"use {name}" if isinstance(name, str) and "with" in value else "use"
    if isinstance(value, UseTemplate):
        return f"use {value.with_.template}"
    return "use" if isinstance(value, Use) else getattr(value, "kind", None)


Stage = Annotated[
    Annotated[Train, Tag("train")]
    | Annotated[Grow, Tag("grow")]
    | Annotated[Trial, Tag("trial")]
    | Annotated[Warmup, Tag("warmup")]
    | Annotated[Settle, Tag("settle")]
    | Annotated[Consolidate, Tag("consolidate")]
    | Annotated[Final, Tag("final")]
    | Annotated[Use, Tag("use")]
    | Annotated[UseGrowCycle, Tag("use grow_cycle")]
    | Annotated[UseSequential, Tag("use sequential")]
    | Annotated[UseGradualUnfreezing, Tag("use gradual_unfreezing")]
    | Annotated[UseWarmupStableDecay, Tag("use warmup_stable_decay")]
    | Annotated[UseContextExtension, Tag("use context_extension")]
    | Annotated[UseSpikeRule, Tag("use spike_rule")],
    Discriminator(_stage_tag),
]
