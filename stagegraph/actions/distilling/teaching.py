"""Teaching: what active distillations add to the loss, and what they hold for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.distilling.distances import cosine, divergence, mean_of, squared
from stagegraph.actions.distilling.taps import Taps, outermost
from stagegraph.actions.distilling.teachers import Teacher
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.probes import Probe, main_tensor
from stagegraph.engine.ports import Effect
from stagegraph.errors import SelectorError, SnapshotError, StageGraphError, UnsupportedError
from stagegraph.schema.activities import Distill

__all__ = ["Teaching"]

_LOGITS = "the model's logits"
"""The key of what is no feature."""


@dataclass(frozen=True, slots=True)
class _Lesson:
    """One distillation in force.

    Attributes:
        place: Where it is written.
        activity: What is written there.
        teachers: Per name, the id of the teacher.
        features: Stable ids of the student's modules whose outputs are compared, where every
            teacher has them too.
    """

    place: str
    activity: Distill
    teachers: Mapping[str, str]
    features: tuple[str, ...]

    def compares(self, teachers: Mapping[str, Teacher]) -> tuple[str, ...]:
        """What is compared: the logits, or the features that student and teachers all have.

        Raises:
            SnapshotError: The tensors of a teacher are not here.
        """
        if self.activity.on == "logits":
            return (_LOGITS,)
        here = [_present(teachers, name, key) for name, key in self.teachers.items()]
        return tuple(n for n in self.features if all(t.module_of(n) is not None for t in here))


_Active = tuple[_Lesson, tuple[str, ...]]
"""A lesson that weighs something now, and what it compares."""


class Teaching:
    """The distillations in force on one model.

    Attributes:
        levels: Weights, temperatures and shares now, by the activity's place and key.
        taps: The hooks on the student's modules, while features are compared.
    """

    def __init__(self) -> None:
        self.levels: dict[str, float] = {}
        self._lessons: tuple[_Lesson, ...] = ()
        self._tapped: dict[str, nn.Module] = {}
        self.taps: Taps | None = None
        self._heard = False

    def hold(
        self,
        effects: Iterable[Effect],
        *,
        model: nn.Module,
        lineage: Lineage,
        teachers: Mapping[str, Teacher],
    ) -> None:
        """Put exactly these distillations in force; who teaches no more goes back to the host.

        Raises:
            SelectorError: A pattern matches no module that the teachers have too.
            UnsupportedError: The model is spread over devices.
        """
        chosen = [(e, e.activity) for e in effects if isinstance(e.activity, Distill)]
        if chosen and len({parameter.device for parameter in model.parameters()}) > 1:
            raise UnsupportedError(
                f"{chosen[0][0].place}: the model is spread over several devices; this version "
                "can place a teacher on one only"
            )
        self._lessons = tuple(
            _Lesson(
                effect.place,
                activity,
                dict(effect.teachers),
                _features(effect, activity, model, lineage, teachers),
            )
            for effect, activity in chosen
        )
        self.levels = {
            f"{effect.place}/{key}": level
            for effect, _ in chosen
            for key, level in effect.levels.items()
        }
        used = {key for lesson in self._lessons for key in lesson.teachers.values()}
        for key, teacher in teachers.items():
            if key not in used:
                teacher.release()
        names = {name for lesson in self._lessons for name in lesson.features}
        self._tap(model, {n: model.get_submodule(lineage.today(n)) for n in sorted(names)})

    def _tap(self, model: nn.Module, modules: dict[str, nn.Module]) -> None:
        if modules == self._tapped:
            return
        if self.taps is not None:
            self.taps.close()
        self.taps = Taps(model, modules, training=True) if modules else None
        self._tapped = modules

    def tune(self, key: str, level: float) -> None:
        """Set a level for the next update."""
        self.levels[key] = level

    @property
    def heard(self) -> bool:
        """Whether a loss of the update that comes next has come by; kept over a resume."""
        return self._heard

    @heard.setter
    def heard(self, heard: bool) -> None:
        self._heard = heard

    def require(self) -> None:
        """Refuse an update that was to be taught and was not; begin to wait for the next one.

        Raises:
            StageGraphError: ``engine.loss`` was not called.
        """
        heard, self._heard = self._heard, False
        if self._lessons and not heard:
            raise StageGraphError(
                f"{self._who()}, and no loss of this update came by: call "
                "engine.loss(loss, outputs=..., inputs=...) and backward() on what it returns"
            )

    def _who(self) -> str:
        lesson = self._lessons[0]
        names = ", ".join(map(repr, lesson.teachers))
        return f"{lesson.place}: this stage learns from {names}"

    def loss(
        self,
        loss: Tensor,
        *,
        outputs: Any,
        inputs: Probe | None,
        model: nn.Module,
        teachers: Mapping[str, Teacher],
    ) -> Tensor:
        """The loss with what every distillation asks for.

        Interpolations come first, in order, then what is added:
        L ← (1 − w) L + w D, then L ← L + w D.

        Raises:
            SnapshotError: The tensors of a teacher are not here.
            StageGraphError: What is needed was not given, or a teacher's output is not a number.
            UnsupportedError: Student and teacher do not fit together.
        """
        self._heard = self._heard or torch.is_grad_enabled()
        if not self._lessons:
            return loss
        if inputs is None:
            raise StageGraphError(
                f"{self._who()}, which is run on the same batch: give engine.loss(loss, "
                "outputs=..., inputs=...) what the model was given, as inputs="
            )
        if loss.numel() != 1:
            raise StageGraphError(
                f"{self._who()}, and what that adds is one number; give engine.loss() the mean of "
                f"the task's losses, not a tensor of shape {tuple(loss.shape)}"
            )
        active = {
            lesson.place: (lesson, lesson.compares(teachers))
            for lesson in self._lessons
            if self.levels[f"{lesson.place}/weight"] > 0
        }
        said = self._student(active.values(), outputs)
        heard = self._ask(active.values(), inputs, _device(model), teachers)
        if self.taps is not None:
            self.taps.forget()
        for mix in ("interpolate", "add"):
            for lesson, whats in active.values():
                if lesson.activity.mix == mix:
                    weight = self.levels[f"{lesson.place}/weight"]
                    kept = 1 - weight if mix == "interpolate" else 1
                    loss = kept * loss + weight * self._distance(lesson, whats, said, heard)
        return loss

    def _student(self, active: Collection[_Active], outputs: Any) -> dict[str, Tensor]:
        """What the student says: its logits, and its features by stable id."""
        said: dict[str, Tensor] = {}
        for lesson, whats in active:
            for what in whats:
                if what not in said:
                    feature = what != _LOGITS
                    said[what] = (
                        self._feature(lesson, what) if feature else self._logits(lesson, outputs)
                    )
        return said

    def _feature(self, lesson: _Lesson, name: str) -> Tensor:
        seen = None if self.taps is None else self.taps.seen.get(name)
        if seen is None:
            raise StageGraphError(
                f"{lesson.place}: module {name!r} of the model put out no floating tensor since "
                "the last engine.loss(); run the model, with gradients, before each call, or take "
                "the module out of 'features'"
            )
        return seen

    def _logits(self, lesson: _Lesson, outputs: Any) -> Tensor:
        logits = main_tensor(outputs)
        if logits is None:
            what = "nothing" if outputs is None else f"a {type(outputs).__name__} without a tensor"
            raise StageGraphError(
                f"{lesson.place}: this stage compares the model's logits with its teachers', and "
                f"{what} was given; give engine.loss(loss, outputs=..., inputs=...) what the model "
                "put out, as outputs="
            )
        return logits

    def _ask(
        self,
        active: Collection[_Active],
        inputs: Probe,
        device: torch.device,
        teachers: Mapping[str, Teacher],
    ) -> dict[tuple[str, str], Tensor]:
        """What the teachers say, by their id and what it is of; each is run once."""
        wanted: dict[str, tuple[str, dict[str, _Lesson]]] = {}
        for lesson, whats in active:
            for name, key in lesson.teachers.items():
                if self.levels[f"{lesson.place}/share:{name}"] > 0:
                    asked = wanted.setdefault(key, (name, {}))[1]
                    asked |= dict.fromkeys(whats, lesson)
        heard: dict[tuple[str, str], Tensor] = {}
        for key, (name, asked) in wanted.items():
            teacher = _present(teachers, name, key)
            teacher.place(device)
            for what, said in _answers(teacher, name, asked, inputs).items():
                heard[key, what] = said
        return heard

    def _distance(
        self,
        lesson: _Lesson,
        whats: Sequence[str],
        said: Mapping[str, Tensor],
        heard: Mapping[tuple[str, str], Tensor],
    ) -> Tensor:
        activity = lesson.activity
        shares = {
            key: self.levels[f"{lesson.place}/share:{name}"]
            for name, key in lesson.teachers.items()
        }
        total = sum(shares.values())
        taught = {key: share / total for key, share in shares.items() if share > 0}
        temperature = self.levels[f"{lesson.place}/temperature"]
        distances = []
        for what in whats:
            student, targets = said[what], [heard[key, what] for key in taught]
            for name, key in lesson.teachers.items():
                if key in taught:
                    _refuse_shapes(lesson, name, what, student, heard[key, what])
            if activity.measure == "kl":
                given = list(taught.values())
                distances.append(divergence(student, targets, given, temperature, activity.axis))
                continue
            target = mean_of(targets, list(taught.values()))
            distances.append(
                squared(student, target)
                if activity.measure == "mse"
                else cosine(student, target, activity.axis)
            )
        return distances[0] if len(distances) == 1 else torch.stack(distances).mean()

    def remember(self) -> Callable[[], None]:
        """A way back to what is in force now; hooks themselves are undone by reference."""
        lessons, levels, heard = self._lessons, dict(self.levels), self._heard
        tapped, taps = self._tapped, self.taps

        def way_back() -> None:
            self._lessons, self.levels, self._heard = lessons, levels, heard
            self._tapped, self.taps = tapped, taps

        return way_back

    def close(self) -> None:
        """Remove every hook; nothing is taught any more."""
        if self.taps is not None:
            self.taps.close()
        self._lessons, self.levels, self._tapped, self.taps = (), {}, {}, None


def _present(teachers: Mapping[str, Teacher], name: str, key: str) -> Teacher:
    teacher = teachers.get(key)
    if teacher is None:
        raise SnapshotError(
            f"the tensors of teacher {name!r} are not here; after load_state_dict(), give what "
            "snapshots() had returned to load_snapshots()"
        )
    return teacher


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _features(
    effect: Effect,
    activity: Distill,
    model: nn.Module,
    lineage: Lineage,
    teachers: Mapping[str, Teacher],
) -> tuple[str, ...]:
    """Stable ids of the modules that the patterns match.

    A block that was grown since has no counterpart in the teacher: a pattern passes it by, its own
    name is an error. Teachers that are not here yet, as after a resume, had been looked at before.
    """
    here = [teachers[key] for key in effect.teachers.values() if key in teachers]
    found: dict[str, None] = {}
    for glob in activity.features:
        names = [lineage.stable(n) for n in outermost(model, glob, place=effect.place)]
        if not any(all(teacher.module_of(n) is not None for teacher in here) for n in names):
            known = ", ".join(map(repr, effect.teachers))
            raise SelectorError(
                f"{effect.place}: no module that {glob!r} matches is in {known} too: it was grown "
                "since; compare a module that was there before"
            )
        found |= dict.fromkeys(names)
    return tuple(found)


def _answers(
    teacher: Teacher, name: str, asked: Mapping[str, _Lesson], inputs: Probe
) -> dict[str, Tensor]:
    modules: dict[str, nn.Module] = {}
    for what in asked:
        module = teacher.module_of(what) if what != _LOGITS else None
        if module is not None:
            modules[what] = module
    taps = Taps(teacher.module, modules, training=False)
    try:
        outputs = teacher.run(inputs)
        answers = {what: taps.seen.get(what) for what in asked if what != _LOGITS}
    except (torch.OutOfMemoryError, StageGraphError):
        raise
    except Exception as error:
        raise UnsupportedError(
            f"teacher {name!r} cannot be run on inputs= ({type(error).__name__}: {error}); give "
            "engine.loss() as inputs= what the model takes: a tensor, a sequence for "
            "model(*inputs), or a mapping for model(**inputs)"
        ) from error
    finally:
        taps.close()
    if _LOGITS in asked:
        answers[_LOGITS] = main_tensor(outputs)
    return {what: _sound(said, name, what, asked[what]) for what, said in answers.items()}


def _sound(said: Tensor | None, name: str, what: str, lesson: _Lesson) -> Tensor:
    where = "its logits" if what == _LOGITS else f"its module {what!r}"
    if said is None:
        raise UnsupportedError(f"{lesson.place}: teacher {name!r} put out no tensor as {where}")
    masked = lesson.activity.measure == "kl"  # a class at -inf has no probability: that is sound
    broken = said.isnan() | said.isposinf() if masked else ~said.isfinite()
    if bool(broken.any()):
        raise StageGraphError(
            f"{lesson.place}: teacher {name!r} put out numbers that are not finite ({where}); the "
            "model had diverged when the teacher was made, or the batch is not sound"
        )
    return said


def _refuse_shapes(lesson: _Lesson, name: str, what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape == teacher.shape:
        return
    remedy = (
        "compare features instead, or teach before the head changes"
        if what == _LOGITS
        else "name modules that kept their width"
    )
    of = what if what == _LOGITS else f"module {what!r} of the model"
    raise UnsupportedError(
        f"{lesson.place}: {of} gave {tuple(student.shape)} and that of teacher {name!r} "
        f"{tuple(teacher.shape)}, which cannot be compared; {remedy}"
    )
