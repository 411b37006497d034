"""Names that lead nowhere: found while compiling, said here with what to do about them."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.problems import Problems
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, declare, rule

__all__ = ["REMEDIES", "breaks_structure"]

REMEDIES: dict[str, str] = {}
"""What to do about a problem of compiling, by code."""

_STRUCTURE = frozenset(
    {"unknown-target", "unknown-initial", "foreign-target", "unknown-graph", "endless-use"}
)


def breaks_structure(problems: Problems) -> bool:
    """Whether a missing name leaves holes that other rules would stumble over."""
    return any(problem.code in _STRUCTURE for problem in problems.found)


def _name(code: str, title: str, why: str, remedy: str) -> None:
    declare(code, "error", title, why, group=__name__)
    REMEDIES[code] = remedy


_name(
    "unknown-target",
    "A way out that leads to no stage.",
    "A misspelt target would stop the run at the very moment the transition fires, often hours "
    "in.\n\nExample: `next: consolidat` where the stage is called `consolidate`.",
    "name a stage of this region, or declare the stage",
)
_name(
    "unknown-initial",
    "A first stage that does not exist.",
    "A region has to begin somewhere.\n\nExample: `initial: pretrain` without such a stage.",
    "let 'initial' name one of the stages beside it",
)
_name(
    "unknown-stage",
    "A reference to a stage that does not exist.",
    "A guard such as `in(data:hard)` or `visits(grow)` and an interrupt's `within` speak of "
    "stages; one that does not exist would never be seen.\n\nExample: `visits(gorw) >= 3`.",
    "name an existing stage, with its region before it if it lies in another: region:stage",
)
_name(
    "foreign-target",
    "A way out into another region.",
    "Regions run side by side; each is always in one of its own stages.\n\n"
    "Example: a transition in `data` with `target: arch:grow`.",
    "send an event, or ask in(...) or done(...) in a guard of the other region",
)
_name(
    "unknown-graph",
    "`use` of a group of stages that does not exist.",
    "`use` puts the stages of an entry of `graphs:` in its place.\n\n"
    "Example: `use: grow_cicle` beside `graphs: {grow_cycle: …}`.",
    "declare it under 'graphs', or use one that is declared",
)
_name(
    "endless-use",
    "A group of stages that contains itself.",
    "Putting a group into itself would never come to an end.\n\n"
    "Example: `graphs: {a: {stages: {x: {use: a, next: y}}}}`.",
    "let the group lead back by a transition outside of it instead",
)
_name(
    "unknown-activity",
    "An activity that is not declared.",
    "A bare name in `during` stands for an entry of `activities:`.\n\n"
    "Example: `during: [low_frozn]`.",
    "declare it under 'activities', or write the activity out in place",
)
_name(
    "unknown-cohort",
    "A growth that nobody names.",
    "`{grown: name}` selects the parameters that the growth of that `name` added.\n\n"
    "Example: `of: {grown: tall}` without a growth that says `name: tall`.",
    "give the growth this 'name', or select 'grown' for the last growth of the region",
)
_name(
    "unknown-region",
    "A region that does not exist.",
    "`done(region)` waits for the end of a region; one that does not exist never ends.\n\n"
    "Example: `done(dta)`.",
    "name one of the regions",
)
_name(
    "unknown-snapshot",
    "A snapshot that nobody takes.",
    "`roll_back` and `regressed` speak of a snapshot taken before.\n\n"
    "Example: `roll_back: {to: befor}`.",
    "take it before, with the action {type: snapshot, name: …}, or name one that is taken",
)
_name(
    "unknown-teacher",
    "A teacher that nobody makes.",
    "`distill` learns from a teacher made before.\n\nExample: `{type: distill, teachers: smal}`.",
    "make it before, with the action {type: teacher, name: …}, or name one that is made",
)
_name(
    "undeclared-metric",
    "A metric that is not declared.",
    "Whether a loss or an accuracy is meant decides which way is better, and a misspelt name "
    "would never get a value: its guard would wait for ever.\n\nExample: `val_los < 0.5`.",
    "declare it under 'metrics' with its goal, or correct the name",
)
_name(
    "undeclared-event",
    "An event that is not declared.",
    "An event that is misspelt on one side is sent and never heard.\n\nExample: `event(grwon)`.",
    "declare it under 'events', or correct the name",
)
_name(
    "plateau-without-window",
    "A plateau that does not say over which span.",
    "`plateau(m, worth=…)` compares over a window: `over`, or eight of the metric's `every` "
    "intervals. With neither there is nothing to compare over.\n\n"
    "Example: `plateau(loss, worth=1%)` with `metrics: {loss: {goal: minimize}}`.",
    "give the guard 'over', or the metric 'every'",
)


@rule("duplicate-interrupt", "error", needs_names=False)
def duplicate_interrupt(context: Context) -> Iterator[Found]:
    """Two interrupts of one name.

    An interrupt's memory and its count of firings are kept under its name.

    Example: two entries of `interrupts:` that both say `name: undo`.
    """
    seen: dict[str, str] = {}
    for region in context.compiled.regions:
        for stage in region.stages.values():
            for edge in stage.ways:
                if edge.kind != "interrupt":
                    continue
                first = seen.setdefault(edge.id, edge.pointer)
                if first != edge.pointer:
                    yield Found(
                        f"there is another {context.way(edge)} at {first}",
                        "give each interrupt that can act in a region a name of its own",
                        f"{edge.pointer}/name",
                    )


@rule("device-name", "warning", needs_names=False)
def device_name(context: Context) -> Iterator[Found]:
    """A name that Windows keeps for a device.

    Stages and regions give files and folders their names; Windows cannot create some.

    Example: a stage called `aux` or `con`.
    """
    devices = {"con", "prn", "aux", "nul", "conin", "conout"}
    devices |= {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
    written = [("stage", stage.name, stage.pointer) for stage in context.stages.values()]
    if context.graph.regions is not None:
        written += [("region", r.name, r.pointer) for r in context.compiled.regions]
    for what, full, pointer in written:
        name = full.rpartition(".")[2]
        if name.lower() in devices:
            yield Found(
                f"{what} {name!r} has the name of a device on Windows",
                f"call it something else, such as {name + '_stage'!r}",
                pointer,
            )
