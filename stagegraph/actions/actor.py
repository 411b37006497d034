"""The actor: carries out boundaries on one torch model, all or nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.attributing import attribute
from stagegraph.actions.companions import Companions
from stagegraph.actions.compiling import as_written, forget_compiled
from stagegraph.actions.data.draws import Drawn
from stagegraph.actions.data.looping import check_loader
from stagegraph.actions.distilling.teachers import TEACHER
from stagegraph.actions.distilling.teachers import make as make_teacher
from stagegraph.actions.flops import count_flops, samples_in
from stagegraph.actions.growing import grow
from stagegraph.actions.growth.operations import costs
from stagegraph.actions.holding import Held, hold
from stagegraph.actions.keeping.checkpoint import Checkpoint, read_checkpoint, take_checkpoint
from stagegraph.actions.keeping.shape import load_shape, shape_of
from stagegraph.actions.keeping.state import held_copies, load_copies, load_state, state_of
from stagegraph.actions.keeping.weights import Weights, take_weights
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.monitoring import Monitor
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.optimizing.scales import Scale
from stagegraph.actions.optimizing.schedules import host_rate
from stagegraph.actions.optimizing.updates import Updates
from stagegraph.actions.parameters import num_parameters, unwrapped
from stagegraph.actions.probes import Probe
from stagegraph.actions.pruning import prune
from stagegraph.actions.randomness import RandomState
from stagegraph.actions.ranks.agreement import Agreement, structure_lines
from stagegraph.actions.ranks.own import fork_own, own_file, pack_own, take_own, unpack_own
from stagegraph.actions.ranks.replicated import Replicated, replicated_in, why_not_followed
from stagegraph.actions.rehearsal import rehearse
from stagegraph.actions.returning import return_to
from stagegraph.actions.sharding.tensors import shards_in
from stagegraph.actions.sharding.units import reshard, settle
from stagegraph.actions.snapshots import take
from stagegraph.actions.standing import Standing
from stagegraph.actions.structure import Structure
from stagegraph.actions.support import unsupported
from stagegraph.actions.undo import Moment, UndoLog
from stagegraph.engine.attributions import Attribution
from stagegraph.engine.ports import Boundary, Deed, Effect, Facts, Outcome
from stagegraph.engine.ranks import Parted
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import (
    ActionError,
    SelectorError,
    SnapshotError,
    StageGraphError,
    UnsupportedError,
)
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.schema.actions import (
    Action,
    Attribute,
    GrowthAction,
    Prune,
    SaveAction,
    SnapshotAction,
    TeacherAction,
)
from stagegraph.schema.activities import Activity
from stagegraph.schema.spaces import Spaces

__all__ = ["TorchActor"]


class TorchActor:
    """Fills :class:`stagegraph.engine.ports.Actor` for one torch model.

    Args:
        model: The model; it stays the user's, and the same object.
        optimizers: Its optimizer, or several.
        growths: For the costs: growths per stage (``"region:stage"``), or per option of it.
        scheduler: LR scheduler, or several; for snapshots.
        scaler: Gradient scaler; for snapshots.
        ema: Averaged weights; for snapshots, and grown along if an ``AveragedModel``.
        data: What knows the data's position; for snapshots.
        probe: A batch on which growth is measured: a tensor, ``model(*sequence)``,
            ``model(**mapping)``, or a function of the model.
        spaces: Which axes of which tensors grow together.
        parts: What the graph names and only code can give: weights to inherit (a state dict, a
            model, a path), builders (functions); a builder is needed again to resume.
        counts_flops: Whether to count what training on a sample takes, on the probe.
        monitor: Measures metrics of the model; for attributions.

    Raises:
        UnsupportedError: Something that was given cannot be used.
    """

    def __init__(  # noqa: PLR0913 - all that a run must know of, named once
        self,
        model: nn.Module,
        optimizers: Optimizer | Sequence[Optimizer] = (),
        growths: Mapping[str, Sequence[GrowthAction]] | None = None,
        *,
        scheduler: object = None,
        scaler: object = None,
        ema: object = None,
        data: object = None,
        probe: Probe | None = None,
        spaces: Spaces | None = None,
        parts: Mapping[str, Any] | None = None,
        counts_flops: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        several = optimizers if isinstance(optimizers, list | tuple) else (optimizers,)
        innermost_ones = {id(one): one for one in map(innermost, several)}
        self._standing = Standing(
            unwrapped(model),
            list(innermost_ones.values()),
            Companions.of(scheduler, scaler, ema, data),
            probe,
            spaces or Spaces(),
            dict(parts or {}),
        )
        self._growths = {stage: tuple(actions) for stage, actions in (growths or {}).items()}
        self.monitor = monitor
        """Measures metrics of the model, or ``None``."""
        self._updates = None if scaler is None else Updates(self._standing.optimizers)
        self._held = Held((), {})
        self._facts: tuple[Lineage, tuple[bool, ...], Facts] | None = None
        self._counts_flops = counts_flops
        self._structure: Structure | None = None
        self._saves: tuple[Weights, ...] = ()
        wrapper = replicated_in(model)
        self._replicas = None if wrapper is None else Replicated(wrapper)
        self._agreement: Agreement | None = None
        self._had_reduced = False

    def join(self, agreement: Agreement) -> None:
        """Carry boundaries out together with other ranks from here on."""
        self._agreement = agreement

    def wrap(self, wrapper: nn.Module) -> None:
        """The model is called through this wrapper from here on.

        Raises:
            UnsupportedError: It is around another model, or cannot follow what the graph does.
        """
        if unwrapped(wrapper) is not self._standing.model:
            raise UnsupportedError(
                f"the {type(wrapper).__name__} is around another model than the engine's"
            )
        replicated = replicated_in(wrapper)
        reasons = [] if replicated is None else why_not_followed(replicated)
        if reasons:
            raise UnsupportedError("\n".join(reasons))
        self._replicas = None if replicated is None else Replicated(replicated)
        if self._replicas is not None:
            self._replicas.mind(unused=self._may_rest())
            self._reduce_as_before()

    def goes_on(self, *, reduced: bool) -> None:
        """Go on with a run, after :meth:`load_state_dict`.

        Args:
            reduced: Whether it had averaged gradients over ranks since its last growth.
        """
        self._had_reduced = reduced
        self._reduce_as_before()

    def _reduce_as_before(self) -> None:
        """Add gradients up in the order in which the run that is gone on with did."""
        probe = self._standing.probe
        if self._replicas is not None and self._had_reduced and probe is not None:
            self._replicas.settle(probe)

    @property
    def has_reduced(self) -> bool:
        """Whether gradients were averaged over ranks since the wrapper was initialised last."""
        return self._replicas is not None and self._replicas.has_reduced

    @property
    def replicas(self) -> int:
        """Over how many ranks the model's gradients are averaged."""
        return 1 if self._replicas is None else self._replicas.size

    def own(self, position: Any) -> bytes:
        """What a checkpoint must hold of this rank beside what all ranks have alike."""
        replicas = self._replicas
        buffers = replicas is not None and replicas.has_own_buffers
        return pack_own(self._standing, position, reduced=self.has_reduced, buffers=buffers)

    def take_own(self, files: Mapping[str, bytes], rank: int, size: int, position: Any) -> Any:
        """Take it up again, after :meth:`load_checkpoint`.

        Args:
            files: The files of the checkpoint.
            rank: This rank.
            size: How many there are.
            position: The place in the data that all ranks have if none is known of this one.

        Returns:
            This rank's place in the data.

        Raises:
            SnapshotError: It cannot be read.
        """
        content = files.get(own_file(rank))
        if content is None:
            if rank:
                fork_own(self._standing, rank)
            return position
        own = unpack_own(content)
        as_many = own_file(size - 1) in files and own_file(size) not in files
        self.goes_on(reduced=as_many and own["reduced"])
        return take_own(self._standing, own)

    def given(self) -> list[str]:
        """What the engine was given beside the model, by the names of its arguments."""
        standing = self._standing
        found: dict[str, object] = {**standing.companions.named(data=True)}
        found |= {"probe": standing.probe, "monitor": self.monitor}
        return sorted(name for name, one in found.items() if one is not None)

    def structure_lines(self) -> list[str]:
        """The structure of model and optimizers, a line each; the same on all ranks."""
        return structure_lines(self._standing.model, self._standing.optimizers)

    def require(
        self,
        actions: Iterable[tuple[str, Action]],
        activities: Iterable[tuple[str, Activity]] = (),
    ) -> None:
        """Refuse, before the run, what a graph asks for and cannot have here.

        Args:
            actions: All actions of the graph with their places.
            activities: All activities with their places.

        Raises:
            UnsupportedError: All that cannot be had, each with its place.
        """
        standing = self._standing
        problems = unsupported(
            actions,
            activities,
            model=standing.model,
            optimizers=standing.optimizers,
            companions=standing.companions,
            probe=standing.probe,
        )
        if problems:
            raise UnsupportedError("\n".join(problems))

    def facts(self) -> Facts:
        """The parameters of the model, and what each stage that grows would add now."""
        standing = self._standing
        standing.rates.heal()
        counted = standing.model.parameters() if self._counts_flops else ()
        trained = tuple(parameter.requires_grad for parameter in counted)
        known = self._facts
        if known is None or known[0] is not standing.lineage or known[1] != trained:
            known = self._facts = (standing.lineage, trained, self._measure_facts())
        return known[2]

    def _measure_facts(self) -> Facts:
        model = self._standing.model
        reshard(self._standing.models)
        known: dict[str, int] = {}
        for stage, actions in self._growths.items():
            try:
                known[stage] = costs(self._standing.site(), actions, place=stage)
            except (SelectorError, UnsupportedError):
                continue  # no growth from here (or nowhere): the cost is not known
        return Facts(num_parameters(model), known, self._count_flops())

    def _count_flops(self) -> tuple[int, int] | None:
        """What training on the probe takes, and how many samples it holds."""
        standing = self._standing
        samples = samples_in(standing.probe) if self._counts_flops else None
        if samples is None or standing.probe is None:
            return None
        probe = standing.probe

        def count() -> list[int]:
            # Closed, backward skips a block.
            with standing.gates.held_at(1.0, standing.gates.alphas()):
                return [count_flops(standing.model, probe), samples]

        if self._agreement is None:
            flops, batch = count()
        else:  # a probe of another length takes another number of them
            by_all = bool(shards_in(standing.model))
            flops, batch = self._agreement.of_first(count, by_all=by_all)
        return flops, batch

    @torch.inference_mode(False)  # whatever the host is in: what is made here must train
    @torch.enable_grad()
    @as_written()
    def transact(self, boundary: Boundary, confirm: Callable[[Outcome], None]) -> Outcome:
        """Carry out a boundary, all or nothing.

        Args:
            boundary: What to do.
            confirm: Called once all is done and before it is final; if it raises, all is undone.

        Raises:
            ActionError: An action failed; everything is as it was before.
        """
        self._standing.rates.heal()
        log, taps, known = UndoLog(), self._standing.teaching.taps, self._standing.compiled_in
        try:
            with self._together(boundary):
                self._refuse_foreign_change(boundary)
                evidence = self._carry_out(boundary, log)
            with self._together(boundary):
                self._follow()
            with self._together(boundary):  # all are here: what is measured may be exchanged
                attributions = self._attribute(boundary, evidence)
                facts, structure = self.facts(), self._structure_now()
            if self._replicas is not None:
                self._replicas.align()
            retapped = self._standing.teaching.taps is not taps
            if boundary.structural or retapped or self._standing.compiled_in != known:
                forget_compiled()
            self.has_updated()  # an update that was only tried is none
            outcome = Outcome(evidence, facts, attributions)
            # The last thing: whatever interrupts after it comes too late.
            failed = None
            if self._agreement is None:
                confirm(outcome)
            else:
                failed = self._agreement.confirm(lambda: confirm(outcome))
        except BaseException as error:
            log.undo()
            self.has_updated()
            if isinstance(error, Exception) and not isinstance(error, Parted):
                self._follow()
            raise
        if failed is not None:
            raise Parted(f"this boundary has held here, and not on all ranks: {failed}")
        self._structure = structure
        if boundary.structural or boundary.forget:
            self._standing.release_pruned()  # not before: what is undone may still go back to it
        return outcome

    @contextmanager
    def _together(self, boundary: Boundary) -> Iterator[None]:
        """What is done inside holds on all ranks, or has failed on all."""
        if self._agreement is None:
            yield
            return
        place = f"boundary {boundary.step}"
        try:
            yield
        except Parted:
            raise  # the ranks have parted, and nobody is there to vote
        except Exception as error:  # noqa: BLE001 - raised on all ranks
            self._agreement.vote(error, place, self.structure_lines)
        else:
            self._agreement.vote(None, place, self.structure_lines)

    def _follow(self) -> None:
        """Let the wrapper that averages gradients over ranks reduce what is trained now."""
        if self._replicas is not None:
            self._replicas.follow(unused=self._may_rest())

    def _may_rest(self) -> bool:
        """Whether parts of the model may be passed by: behind closed gates, heads not in use."""
        closed = any(alpha == 0.0 for alpha in self._standing.gates.alphas().values())
        return closed or self._standing.has_heads

    def _structure_now(self) -> Structure:
        settle(self._standing.models)
        return Structure.of(self._standing.model, self._standing.optimizers)

    def _refuse_foreign_change(self, boundary: Boundary) -> None:
        """Refuse, once, what others have changed of the structure since the last boundary."""
        known, self._structure = self._structure, self._structure_now()
        growths = (deed.place for deed in boundary.deeds if isinstance(deed.action, GrowthAction))
        with _blamed_on(next(growths, f"boundary {boundary.step}")):
            if known is not None:
                known.require(self._structure)

    def _carry_out(self, boundary: Boundary, log: UndoLog) -> dict[str, Mapping[str, Any]]:
        standing, evidence = self._standing, dict[str, Mapping[str, Any]]()
        self._prepare_undo(boundary, log)
        if self._replicas is not None and boundary.structural:
            self._replicas.let_go()
        leaving = [deed for deed in boundary.deeds if deed.leaving]
        saved = self._save(leaving, evidence, taken=frozenset())
        if boundary.restore is not None:
            with _blamed_on(boundary.restore.place):
                evidence[boundary.restore.place] = return_to(standing, boundary.restore)
        if boundary.structural:
            for parameter in standing.model.parameters():
                parameter.grad = None
        others = [deed for deed in boundary.deeds if not deed.leaving]
        self._save(others, evidence, taken=saved if boundary.restore else frozenset())
        self._keep(boundary, evidence)
        self._reshape(boundary, evidence)
        with _blamed_on(f"boundary {boundary.step}"):
            self._held = hold(standing, boundary.held, boundary.alphas)
            self._skip(boundary)
        self._rehearse(boundary, evidence, log)
        for name in boundary.forget:
            standing.snapshots.pop(name, None)
            standing.teachers.pop(name, None)
        return evidence

    def _save(
        self,
        deeds: Iterable[Deed],
        evidence: dict[str, Mapping[str, Any]],
        *,
        taken: AbstractSet[str],
    ) -> frozenset[str]:
        """Copy the weights that are to be kept for good, as they are now.

        Args:
            deeds: Of these, the saves.
            evidence: What was done is added to it.
            taken: Names under which another model was kept at this boundary.

        Returns:
            The names.
        """
        made: dict[str, Weights] = {}
        for deed in deeds:
            if isinstance(deed.action, SaveAction):
                name = deed.action.name
                with _blamed_on(deed.place):
                    if name in taken:
                        raise ActionError(
                            deed.place,
                            f"another model is saved as {name!r} at this boundary, from before the "
                            "return; give one of them another name",
                        )
                    if name not in made:
                        made[name] = take_weights(self._standing, name, deed.moment or {})
                evidence[deed.place] = {"kind": "save", "name": name, "bytes": made[name].nbytes}
        self._saves += tuple(made.values())
        return frozenset(made)

    def take_saves(self) -> tuple[Weights, ...]:
        """The weights that boundaries have kept since this was asked last, to be written."""
        saves, self._saves = self._saves, ()
        return saves

    def _skip(self, boundary: Boundary) -> None:
        """Pass over batches, as they would be drawn now; snapshots of this boundary know of it."""
        standing, restore = self._standing, boundary.restore
        standing.steering.skip(restore)
        if restore is None or not restore.skip_batches:
            return
        for deed in boundary.deeds:
            if isinstance(deed.action, SnapshotAction):
                name = deed.snapshot or deed.action.name
                kept = standing.snapshots[name]
                standing.snapshots[name] = kept.with_data(standing.companions)

    def _keep(self, boundary: Boundary, evidence: dict[str, Mapping[str, Any]]) -> None:
        """Take snapshots and make teachers of the model as it is at the start."""
        for deed in boundary.deeds:
            if isinstance(deed.action, SnapshotAction):
                with _blamed_on(deed.place):
                    evidence[deed.place] = self._snapshot(deed.snapshot or deed.action.name)
            elif isinstance(deed.action, TeacherAction):
                with _blamed_on(deed.place):
                    evidence[deed.place] = self._teacher(deed, deed.action.name)

    def _reshape(self, boundary: Boundary, evidence: dict[str, Mapping[str, Any]]) -> None:
        """Grow and prune."""
        standing = self._standing
        if any(isinstance(deed.action, GrowthAction) for deed in boundary.deeds):
            standing.numbers.release()  # what is grown copies the model's own numbers
        for deed in boundary.deeds:
            if isinstance(deed.action, GrowthAction):
                alpha = boundary.alphas.get(deed.cohort or deed.place, 1.0)
                with _blamed_on(deed.place):
                    evidence[deed.place] = grow(standing, deed, step=boundary.step, alpha=alpha)
            elif isinstance(deed.action, Prune):
                with _blamed_on(deed.place):
                    evidence[deed.place] = prune(standing, deed, step=boundary.step)

    def _attribute(
        self, boundary: Boundary, evidence: dict[str, Mapping[str, Any]]
    ) -> tuple[Attribution, ...]:
        """Measure contributions, of the model as all else at this boundary has made it."""
        found: list[Attribution] = []
        for deed in boundary.deeds:
            if isinstance(deed.action, Attribute):
                with _blamed_on(deed.place):
                    evidence[deed.place], attribution = attribute(
                        self._standing, self.monitor, deed, number=boundary.number
                    )
                found.append(attribution)
        return tuple(found)

    def _rehearse(
        self, boundary: Boundary, evidence: dict[str, Mapping[str, Any]], log: UndoLog
    ) -> None:
        """Try one update, if a growth asks for it, with all that will be in force."""
        asking = [deed for deed in boundary.deeds if _is_rehearsed(deed.action)]
        for deed in asking[:1]:
            with _blamed_on(deed.place):
                found = rehearse(self._standing, log, place=deed.place, seed=deed.seed)
            for one in asking:
                evidence[one.place] = {**evidence[one.place], "rehearsal": found}

    def _prepare_undo(self, boundary: Boundary, log: UndoLog) -> None:
        standing, held, saves = self._standing, self._held, self._saves
        restoring = boundary.restore is not None

        def way_back() -> None:
            self._held, self._saves = held, saves

        log.push(RandomState.capture().restore)
        if restoring:
            log.push(standing.companions.remember())
        log.push(
            Moment(
                standing.models,
                standing.optimizers,
                owners=standing.owners() if boundary.structural else (),
                buffers=boundary.structural,
                parameters=restoring,
            ).restore
        )
        log.push(way_back)
        log.push(standing.remember())

    def _snapshot(self, name: str) -> dict[str, Any]:
        standing = self._standing
        standing.snapshots[name] = take(
            standing.model,
            standing.optimizers,
            lineage=standing.lineage,
            companions=standing.companions,
            alphas=standing.gates.alphas(),
            attributes=standing.attributes.values(),
        )
        return {"kind": "snapshot", "snapshot": name}

    def _teacher(self, deed: Deed, name: str) -> dict[str, Any]:
        standing = self._standing
        teacher, evidence = make_teacher(
            standing.model,
            name=name,
            lineage=standing.lineage,
            alphas=standing.gates.alphas(),
            attributes=standing.attributes.values(),
            probe=standing.probe,
            place=deed.place,
        )
        standing.teachers[deed.teacher or f"{TEACHER}{name}"] = teacher
        return evidence

    def loss(self, loss: Tensor, *, outputs: Any = None, inputs: Probe | None = None) -> Tensor:
        """The loss with what the distillations in force add to it.

        Raises:
            StageGraphError: What they need was not given, or is not sound.
        """
        standing = self._standing
        return standing.teaching.loss(
            loss,
            outputs=outputs,
            inputs=inputs,
            model=standing.model,
            teachers=standing.teachers,
        )

    @property
    def taught(self) -> bool:
        """Whether a loss has come by since the last update that was told of."""
        return self._standing.teaching.heard

    @taught.setter
    def taught(self, taught: bool) -> None:
        self._standing.teaching.heard = taught

    def require_loss(self) -> None:
        """Refuse an update that was to be taught and whose loss did not come by :meth:`loss`.

        Raises:
            StageGraphError: It did not.
        """
        self._standing.teaching.require()

    def hear_data(self, told: Callable[[Drawn], None]) -> None:
        """Tell somebody of the first batch that is drawn as a boundary had asked."""
        self._standing.told = told

    def check_loader(self, loader: object, graph: CompiledGraph) -> None:
        """Refuse to loop over what does not follow the graph.

        Raises:
            UnsupportedError: It is not what is steered, or a rollback could not rewind it.
        """
        check_loader(loader, self._standing.companions.data, graph)

    def require_data(self) -> None:
        """Refuse an update of a steered run whose loader has handed nothing out.

        Raises:
            StageGraphError: The batches come from elsewhere.
        """
        self._standing.steering.require()

    @property
    def may_skip(self) -> bool:
        """Whether an optimizer's step may be none, because a gradient scaler skips it."""
        return self._updates is not None

    @property
    def made(self) -> bool:
        """Whether an optimizer has really stepped, if a gradient scaler may skip; not asked of."""
        return self._updates is None or self._updates.made

    @made.setter
    def made(self, made: bool) -> None:
        if self._updates is not None:
            self._updates.made = made

    def has_updated(self) -> bool:
        """Whether an optimizer has really stepped since this was last asked."""
        return self._updates is None or self._updates.take()

    def watch_first_step(self, begin: Callable[[], None]) -> None:
        """Call ``begin`` before each optimizer's first step."""
        self._standing.rates.watch_first_step(begin)

    def rest(self) -> None:
        """A boundary is over: take the hooks off optimizers that nothing is in force for."""
        self._standing.rates.rest()

    def hold(self, held: Sequence[Effect], alphas: Mapping[str, float]) -> None:
        """Put activities in force without a boundary, as after a resume.

        Raises:
            SelectorError: A selection matches nothing; everything is as before.
        """
        self.transact(Boundary(0, None, (), tuple(held), alphas), lambda _: None)

    def tune(self, values: Mapping[str, float]) -> None:
        """Set the values of moving activities, by place, for the next update."""
        self._standing.rates.heal()
        self._held.tune(self._standing, values)
        if self._replicas is not None:
            self._replicas.mind(unused=self._may_rest())

    def learning_rates(self) -> list[float]:
        """Per parameter group of all optimizers, the learning rate in force: host's × factors.

        Where the parameters of a group are under different factors, that of most of them.
        """
        factors = self.lr_factors()
        groups = (g for optimizer in self._standing.optimizers for g in optimizer.param_groups)
        return [float(g["lr"]) * f for g, f in zip(groups, factors, strict=True)]

    def lr_factors(self) -> list[float]:
        """Per parameter group, the engine's factor on its learning rate, as most of it has it."""
        rates = self._standing.rates
        rates.heal()
        found: list[float] = []
        for optimizer in self._standing.optimizers:
            for group in optimizer.param_groups:
                counts = Counter(rates.class_of(parameter) for parameter in group["params"])
                most = max(counts, key=counts.__getitem__, default=((), Scale()))
                found.append(rates.scale(*most).lr)
        return found

    def host_rate(self) -> float | None:
        """The host's learning rate, without the engine's factors; ``None``: not at hand."""
        self._standing.rates.heal()
        return host_rate(self._standing.optimizers)

    def heal(self) -> None:
        """Put the host's learning rates back after an optimizer's step that raised."""
        self._standing.rates.heal()

    def state_dict(self) -> dict[str, Any]:
        """What the structure is and what lasts, as JSON data; tensors are in the checkpoint."""
        self._standing.rates.heal()
        return shape_of(self._standing)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state up: replay the structure, set gates and lasting factors.

        Load the weights and the optimizers' states after this, then :meth:`hold` what is in force.

        Raises:
            SnapshotError: This is no state of this version, or of another model.
        """
        if self._replicas is not None:
            self._replicas.let_go()
        try:
            load_shape(self._standing, state)
        finally:
            self._follow()
        self._held, self._structure = Held((), {}), None
        forget_compiled()

    def snapshots(self) -> dict[str, Any]:
        """All snapshots and teachers in plain containers and tensors, for a checkpoint."""
        return held_copies(self._standing)

    def load_snapshots(self, packed: Mapping[str, Any]) -> None:
        """The inverse of :meth:`snapshots`.

        Raises:
            SnapshotError: One of them cannot be read.
        """
        load_copies(self._standing, packed)

    def take_checkpoint(self, beside: Any = None) -> Checkpoint:
        """Copy all that training changes to host memory.

        Args:
            beside: Containers and tensors of others, such as the data's position.

        Raises:
            UnsupportedError: Something cannot be kept; the message says what.
        """
        self._standing.rates.heal()
        return take_checkpoint({"model": state_of(self._standing), "beside": beside}, "the state")

    @torch.no_grad()
    def load_checkpoint(self, files: Mapping[str, bytes]) -> Any:
        """Take a checkpoint up after :meth:`load_state_dict`; the random numbers come last.

        Returns:
            What was kept beside it.

        Raises:
            SnapshotError: It cannot be read, or is of another model.
        """
        state = read_checkpoint(files)
        try:
            load_state(self._standing, state["model"])
            return state["beside"]
        except (*DAMAGE, RuntimeError) as error:
            raise SnapshotError(f"this checkpoint cannot be taken up: {error!r}") from error

    def save_sharded(self, folder: str | os.PathLike[str], beside: Any = None) -> None:
        """Save all that training changes of a sharded model; all ranks must call this.

        Args:
            folder: A folder that all ranks see, and that holds no checkpoint yet.
            beside: Containers and tensors of others, such as the data's position.

        Raises:
            SnapshotError: A rank could not write, or has something that cannot be kept; on every
                rank, and there is no checkpoint then.
        """
        from stagegraph.actions.keeping.sharded import save_standing

        self._standing.rates.heal()
        save_standing(folder, self._standing, beside)

    def load_sharded(self, folder: str | os.PathLike[str]) -> Any:
        """The inverse, after :meth:`load_state_dict`; all ranks must call this.

        Returns:
            What was kept beside it.

        Raises:
            SnapshotError: It cannot be read, or is of another model.
        """
        from stagegraph.actions.keeping.sharded import load_standing

        return load_standing(folder, self._standing)

    def close(self) -> None:
        """Remove all hooks and release what is frozen; the model is the user's alone again."""
        if self._standing.compiled_in:
            forget_compiled()
        self._standing.close()
        if self._updates is not None:
            self._updates.close()
        self._held = Held((), {})


def _is_rehearsed(action: Action) -> bool:
    return isinstance(action, GrowthAction) and action.probe == "train"


@contextmanager
def _blamed_on(place: str) -> Iterator[None]:
    """Errors inside become an :class:`ActionError` of this place."""
    try:
        yield
    except ActionError:
        raise
    except StageGraphError as error:
        raise ActionError(place, str(error).removeprefix(f"{place}: ")) from error
    except Exception as error:
        raise ActionError(place, f"{type(error).__name__}: {error}") from error
