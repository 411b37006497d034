"""Durations, numbers, guards, actions and activities in the few words that fit a picture."""

from __future__ import annotations

from typing import Any

from stagegraph.progress import Duration, Unit
from stagegraph.schema.base import Model
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.levels import MovingLevel

__all__ = [
    "action_words",
    "activity_words",
    "duration_words",
    "exact_number",
    "guard_words",
    "rough_number",
    "span_words",
    "whole_guard",
]

_SUFFIXES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
_SHARES = frozenset({"worth", "by", "within", "confidence"})
_MARKS = {"<=": "≤", ">=": "≥", "!=": "≠", "==": "="}


def exact_number(value: float) -> str:
    """A number as people write it, nothing lost.

    >>> exact_number(20000), exact_number(1_250_000), exact_number(12_345), exact_number(0.3)
    ('20k', '1.25M', '12,345', '0.3')
    """
    if value != int(value):
        return f"{value:.6g}"
    whole = int(value)
    for size, suffix in _SUFFIXES:
        if abs(whole) >= size and whole * 100 % size == 0:
            return f"{whole / size:.2f}".rstrip("0").rstrip(".") + suffix
    return f"{whole:,}"


def rough_number(value: float) -> str:
    """A number in three digits.

    >>> rough_number(1_234_567), rough_number(950), rough_number(0.000312)
    ('1.23M', '950', '0.000312')
    """
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def duration_words(duration: Duration) -> str:
    """A duration in short.

    >>> duration_words(Duration.parse("2000 steps")), duration_words(Duration.parse("90 min"))
    ('2k steps', '90 min')
    """
    amount, unit = duration.amount, str(duration.unit)
    if duration.unit is Unit.SECONDS:
        for size, word in ((86400, "day"), (3600, "h"), (60, "min")):
            if amount % size == 0:
                many = "s" if word == "day" and amount != size else ""
                return f"{exact_number(amount // size)} {word}{many}"
        return f"{exact_number(amount)} s"
    return f"{exact_number(amount)} {unit.removesuffix('s') if amount == 1 else unit}"


def span_words(seconds: float) -> str:
    """A stretch of time.

    >>> span_words(42.4), span_words(200), span_words(7260)
    ('42s', '3m20s', '2h01m')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


# Guards


def whole_guard(guard: Model | None, region: str) -> str:
    """A guard in full, the names of its own region without the region."""
    if guard is None:
        return "always"
    return format_guard(guard).replace(f"({region}:", "(")


def guard_words(guard: Model | None, region: str) -> str:
    """A guard in short: of each call what it is about and its first number, no more."""
    return "always" if guard is None else _short(guard, region, 0)


def _short(node: Any, region: str, level: int) -> str:
    if not isinstance(node, Model):
        return exact_number(node)
    kind = str(getattr(node, "type", ""))
    match kind:
        case "all" | "any":
            own, word = (2, " and ") if kind == "all" else (1, " or ")
            text = word.join(_short(part, region, own + 1) for part in getattr(node, "of", ()))
            return f"({text})" if own < level else text
        case "not":
            return f"not {_short(getattr(node, 'of', None), region, 3)}"
        case "compare":
            op = _MARKS.get(getattr(node, "op", ""), getattr(node, "op", ""))
            left, right = getattr(node, "left", 0), getattr(node, "right", 0)
            return f"{_short(left, region, 5)} {op} {_short(right, region, 5)}"
        case "name":
            return str(getattr(node, "name", "?"))
        case "arithmetic" | "negative":
            text = format_guard(node).replace(f"({region}:", "(")
            return f"({text})" if level > 5 else text
    return _short_call(node, kind, region)


def _short_call(node: Model, kind: str, region: str) -> str:
    words: list[str] = [_value(name, getattr(node, name), region) for name in node.positional]
    for name, info in type(node).model_fields.items():
        value = getattr(node, name)
        if name in ("type", "note", *node.positional) or value in (None, info.default):
            continue
        key = f"{name} " if isinstance(value, Duration) else ""
        words.append(key + _value(name, value, region))
        break
    return f"{kind}({', '.join(words)})"


def _value(name: str, value: Any, region: str) -> str:
    if name in _SHARES and isinstance(value, int | float):
        return f"{value * 100:.4g}%"
    if isinstance(value, Duration):
        return duration_words(value)
    if isinstance(value, int | float):
        return exact_number(value)
    return str(value).removeprefix(f"{region}:")


# Actions and activities


def action_words(action: Model) -> str:
    """An action in short."""
    given = _given(action)
    match given.pop("type", ""):
        case "snapshot" | "baseline" | "teacher" | "save" as kind:
            return f"{kind} {given.get('name')}"
        case "roll_back":
            told = ("data", "skip_batches", "rng", "exclude")
            differ = [f"{key} {given[key]}" for key in told if key in given] + (
                [f"LR × {given['lr_factor']:g}"] if "lr_factor" in given else []
            )
            return f"roll back to {given.get('to')}" + (f" ({', '.join(differ)})" if differ else "")
        case "send":
            return f"send {given.get('event')}"
        case "attribute":
            of = _of(given.get("of", "all"))
            return f"attribute {given.get('metric')}" + ("" if of == "all" else f" to {of}")
        case "prune":
            by = f" by {given['metric']}" if "metric" in given else ""
            return f"prune {_of(given.get('of', ()))}{by}"
        case (
            "deepen"
            | "widen"
            | "extend_vocab"
            | "extend_context"
            | "add_heads"
            | "widen_head_dim" as kind
        ):
            how = given.get("how") or given.get("init")
            space = given.get("space", "")
            what = given.get("stack") or (", ".join(space) if isinstance(space, tuple) else space)
            return f"{kind} {what} {_size(given)}{f' ({how})' if how else ''}"
        case "attach" | "upcycle" | "add_experts" | "add_head" as kind:
            return _branch_words(kind, given)
        case "regrow":
            fields = ", ".join(
                f"{key} {_item(v)}" for key, v in (given.get("fields") or {}).items()
            )
            return f"regrow {given.get('build') or 'from the config'} with {fields}"
        case "inherit":
            how = ", ".join(str(given[key]) for key in ("how", "stacks") if key in given)
            return f"inherit {given.get('source')}{f' ({how})' if how else ''}"
        case kind:
            return " ".join([str(kind), *(f"{key}={_item(v)}" for key, v in given.items())])


def _branch_words(kind: str, given: dict[str, Any]) -> str:
    """A growth by new modules."""
    if kind == "attach":
        where = " after" if given.get("mode") == "after" else " to"
        return f"attach {given.get('module')}{where} {_listed(given.get('host'))}"
    if kind == "upcycle":
        return f"upcycle {_listed(given.get('host'))} to {given.get('experts')} experts"
    if kind == "add_experts":
        kept = " (top_k kept)" if given.get("top_k") == "keep" else ""
        return f"add experts to {_listed(given.get('moe'))} {_size(given)}{kept}"
    like = f" like {given['like']}" if "like" in given else ""
    fresh = " (fresh)" if given.get("init") == "fresh" else ""
    return f"add head {given.get('head')} to {given.get('heads')}{like}{fresh}"


def _listed(names: Any) -> str:
    return ", ".join(names or ())


def _size(given: dict[str, Any]) -> str:
    if given.get("add") is not None:
        return f"+{given['add']}"
    if given.get("factor") is not None:
        return f"×{given['factor']:g}"
    return f"to {given.get('to')}"


def activity_words(activity: Model) -> str:
    """An activity in short."""
    given = _given(activity)
    of = _of(given.pop("of", ())) or ("all" if "but" in given else "")
    if "but" in given:
        of = f"{of} but {_of(given.pop('but'))}"
    on = f" on {of}" if of and of != "all" else ""
    match given.pop("type", ""):
        case "alpha_ramp":
            begin, end = getattr(activity, "start", 0), getattr(activity, "end", 1)
            on = "" if of == "grown" else on
            return f"α {begin:g}→{end:g}{on} over {_over(activity)}"
        case "lr_ramp":
            begin, end = getattr(activity, "start", 1), getattr(activity, "end", 1)
            return f"LR × {begin:g}→{end:g}{on} over {_over(activity)}"
        case "lr_factor":
            return f"LR × {getattr(activity, 'factor', 1):g}{on}"
        case "freeze":
            return f"freeze {of}"
        case "head":
            return f"{of} = {given.get('use')}"
        case "difficulty":
            return f"difficulty {getattr(activity, 'level', '?')}"
        case "distill":
            return _distill_words(given)
        case "mixture" | "sequence_length" | "batch_size" | "hyper" as kind:
            return _data_words(kind, given)
        case kind:
            return f"{kind}{on} " + " ".join(f"{key}={_item(v)}" for key, v in given.items())


def _data_words(kind: str, given: dict[str, Any]) -> str:
    """An activity of the data, or a hyper-parameter."""
    if kind == "mixture":
        shares = given.get("weights", {}).items()
        return "mix " + ", ".join(f"{name} {_level(weight)}" for name, weight in shares)
    if kind == "sequence_length":
        base = f", RoPE base {given['rope_base']:g}" if "rope_base" in given else ""
        return f"length {_level(given.get('length', 0))}{base}"
    if kind == "batch_size":
        size = given["size"] if "size" in given else f"× {given.get('factor', 1):g}"
        lr = f", LR {given['lr']}" if "lr" in given else ""
        return f"batch {size}{lr}" + (" by accumulation" if "accumulate" in given else "")
    name = next((str(given[key]) for key in ("optimizer", "attribute", "knob") if key in given), "")
    mark, level = ("=", given["value"]) if "value" in given else ("×", given.get("factor", 1))
    return f"{name} {mark} {_level(level)}"


def _distill_words(given: dict[str, Any]) -> str:
    """Whom it learns from, then what is not as by default."""
    names = ", ".join(str(getattr(one, "name", one)) for one in given.get("teachers", ()))
    words = [f"distill from {names}"]
    if "features" in given:
        words.append(f"on {_of(given['features'])}")
    if "loss" in given:
        words.append(f"by {given['loss']}")
    words += [f"{mark} {_level(given[key])}" for key, mark in _LEVELS.items() if key in given]
    return " ".join(words)


_LEVELS = {"temperature": "T", "weight": "×"}


def _level(level: Any) -> str:
    if not isinstance(level, MovingLevel):
        return f"{level:g}"
    return f"{level.start:g}→{level.end:g} over {_over(level)}"


def _over(activity: Model) -> str:
    curve = getattr(activity, "curve", "linear")
    over = getattr(activity, "over", None)
    words = duration_words(over) if isinstance(over, Duration) else "?"
    if isinstance(curve, tuple):
        return f"{words}, {len(curve)} points"
    return words if curve == "linear" else f"{words}, {curve}"


def _of(parts: Any) -> str:
    parts = parts if isinstance(parts, tuple | list) else (parts,)
    names = [str(getattr(part, "grown", getattr(part, "group", part))) for part in parts]
    return ", ".join(names)


def _given(model: Model) -> dict[str, Any]:
    """The fields that were written, or differ from their default, ``note`` apart."""
    return {
        name: getattr(model, name)
        for name, info in type(model).model_fields.items()
        if name != "note" and getattr(model, name) != info.default
    }


def _item(value: Any) -> str:
    return duration_words(value) if isinstance(value, Duration) else str(value)
