"""What pydantic found, in our words: what was found, what is known, and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, get_args

from stagegraph.errors import did_you_mean
from stagegraph.schema.activities import GrownCohort
from stagegraph.schema.amounts import bounded
from stagegraph.schema.base import Model
from stagegraph.schema.guards import Guard
from stagegraph.schema.levels import Shape
from stagegraph.schema.places import Place, keys_of, same_union, tags_of
from stagegraph.schema.reading import child, shown
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.stages import Use
from stagegraph.schema.templates.registry import REGION_TEMPLATES, TEMPLATES
from stagegraph.schema.templates.template import (
    RegionTemplate,
    Template,
    UseRegions,
    UseTemplate,
)

__all__ = ["aim", "noun", "word"]

_NOUNS = {
    "StageGraph": "a stage graph",
    "Metric": "a metric",
    "Budget": "a budget",
    "Region": "a region",
    "SubGraph": "an entry of 'graphs'",
    "Transition": "a transition",
    "Interrupt": "an interrupt",
    "OnError": "'on_error'",
    "GrowthOption": "an option",
    "GrownCohort": "a selection by cohort",
    "GroupMembers": "a selection by the optimizer's groups",
    "MovingLevel": "a moving level",
    "MovingNumber": "a moving number",
    "MovingCount": "a moving whole number",
    "WeightedTeacher": "a teacher with its weight",
    "Use": "a stage with 'use'",
    "Undo": "'undo'",
}


def noun(model: type[Model]) -> str:
    """A model as a sentence names it.

    >>> from stagegraph.schema.stages import Train
    >>> noun(Train), noun(Use)
    ("a 'train' stage", "a stage with 'use'")
    """
    if model.__name__ in _NOUNS:
        return _NOUNS[model.__name__]
    if issubclass(model, Template | RegionTemplate):
        return f"the template {model.template!r}"
    if issubclass(model, UseTemplate):
        return _NOUNS["Use"]
    if issubclass(model, UseRegions):
        return "'regions' with 'use'"
    tag = _tag(model)
    if tag is None:
        return "this mapping"
    article = "an" if tag[0] in "aeiou" else "a"
    return f"{article} {tag!r}" + (" stage" if "kind" in model.model_fields else "")


def word(error: Any, place: Place) -> str:
    """One error of pydantic's as a message.

    Args:
        error: An item of ``ValidationError.errors()``.
        place: Where it is, as :func:`stagegraph.schema.places.find_place` says.
    """
    write = _WORDS.get(error["type"])
    if write is None:
        return f"{error['msg']}, got {shown(error['input'])}"
    return write(error["input"], error.get("ctx", {}), place)


def aim(error: Any, place: Place) -> str:
    """The pointer to what is wrong: for a stage of an unknown kind, its ``kind``."""
    value = error["input"]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found") and isinstance(value, dict):
        if _is_filled_in(value, place) or _is_regions(place):
            return child(place.pointer, "use")
        key, _ = _tag_key(place)
        found = key if key in value else _misspelt(value, key)
        if found is not None:
            return child(place.pointer, found)
    return place.pointer


def _misspelt(value: dict[str, Any], key: str) -> str | None:
    return next((found for found in value if repr(key) in did_you_mean(found, [key, ""])), None)


def _unknown_key(value: Any, context: dict[str, Any], place: Place) -> str:
    assert place.model is not None
    key = str(place.key)
    if issubclass(place.model, Use | UseTemplate) and key == "kind":
        return "a stage with 'use' has no 'kind': the stages it puts in have theirs"
    if issubclass(place.model, RegionTemplate) and key == "max_overlap":
        return f"{key!r} is no key of {noun(place.model)}; it stands at the root of the document"
    known = keys_of(place.model)
    owners = _owners(place.model, key)
    if owners:
        only = ", ".join(owners)
        return f"{noun(place.model)} has no {key!r} (only: {only}); known: {', '.join(known)}"
    hint = did_you_mean(key, known)
    message = f"unknown key {shown(key)} in {noun(place.model)}{hint}"
    if hint.startswith("; did you mean"):
        return message
    if len(known) > 12:
        message = f"unknown key {shown(key)} in {noun(place.model)}; known: {', '.join(known)}"
    return message + " (this stagegraph reads version 1; a newer one may know more)"


def _owners(model: type[Model], key: str) -> list[str]:
    """The kinds beside this one that know the key."""
    siblings = [
        other
        for other in vars(sys.modules[model.__module__]).values()
        if isinstance(other, type) and issubclass(other, Model) and _tag(other) and _tag(model)
    ]
    return [str(_tag(other)) for other in siblings if key in keys_of(other)]


def _tag(model: type[Model]) -> str | None:
    for key in ("kind", "type"):
        if key in model.model_fields:
            return str(get_args(model.model_fields[key].annotation)[0])
    return None


def _missing(value: Any, context: dict[str, Any], place: Place) -> str:
    assert place.model is not None
    if place.model is StageGraph and place.key == "stagegraph":
        return "the version is missing; add 'stagegraph: 1' as the first key"
    fields = place.model.model_fields
    field = next(f for name, f in fields.items() if place.key in (name, f.alias))
    sentence = " ".join((field.description or "").split()).split(". ")[0].rstrip(".")
    meaning = sentence.replace("``", "'")
    return f"the key {place.key!r} is missing; {noun(place.model)} needs it" + (
        f": {meaning[0].lower()}{meaning[1:]}" if meaning else ""
    )


def _unknown_tag(value: Any, context: dict[str, Any], place: Place) -> str:
    if _is_regions(place):
        return _no_regions(value["use"])
    key, what = _tag_key(place)
    if _is_filled_in(value, place):
        name = value["use"]
        if name in REGION_TEMPLATES:
            return (
                f"{name!r} is a template that makes regions, not stages; write it at the root of "
                f"the document: 'regions: {{use: {name}, with: ...}}'"
            )
        return (
            f"there is no template {shown(name)}{_one_of(name, list(TEMPLATES))}; what stands in "
            "'graphs' is used without 'with'"
        )
    found = value.get(key)
    return f"unknown {key} of {what} {shown(found)}{_one_of(str(found), tags_of(place.expected))}"


def _is_filled_in(value: dict[str, Any], place: Place) -> bool:
    """Whether this is a stage that would use a template."""
    return "use" in value and "with" in value and _tag_key(place) == ("kind", "stage")


def _is_regions(place: Place) -> bool:
    """Whether this is what would make the regions of a document."""
    return place.model is StageGraph and place.key == "regions"


def _no_regions(name: str) -> str:
    """What makes no regions: a template of stages, or none at all."""
    known = ", ".join(REGION_TEMPLATES)
    if name in TEMPLATES:
        return (
            f"the template {name!r} makes stages, not regions; use it as a stage of a region. "
            f"Those that make regions: {known}"
        )
    return (
        f"no template that makes regions is called {shown(name)}"
        f"{_one_of(name, list(REGION_TEMPLATES))}; a region called 'use' is a mapping, not a text"
    )


def _no_tag(value: Any, context: dict[str, Any], place: Place) -> str:
    key, what = _tag_key(place)
    if not isinstance(value, dict):
        return _no_mapping(value, context, place)
    known = ", ".join(tags_of(place.expected))
    if key in value:
        return f"{key!r} is the name of a {what}, got {shown(value[key])}; known: {known}"
    found = _misspelt(value, key)
    if found is not None:
        return f"unknown key {shown(found)}; did you mean {key!r}?"
    return f"the key {key!r} is missing; it says which {what} this is: {known}"


def _no_mapping(value: Any, context: dict[str, Any], place: Place) -> str:
    if same_union(place.expected, Guard):
        return (
            "a guard is a text such as 'val_loss < 0.5', or a mapping with 'type', "
            f"got {shown(value)}"
        )
    if place.expected is GrownCohort:
        return (
            "a selection is 'all', 'grown', {grown: NAME}, {group: NAME}, a pattern of names, or "
            f"a list of these; got {shown(value)}"
        )
    tags = tags_of(place.expected)
    if tags:
        key, what = _tag_key(place)
        article = "an" if what[0] in "aeiou" else "a"
        return f"{article} {what} is a mapping with {key!r} ({', '.join(tags)}), got {shown(value)}"
    if isinstance(place.expected, type) and issubclass(place.expected, Model):
        keys = ", ".join(keys_of(place.expected)[:6])
        return f"{noun(place.expected)} is a mapping with keys such as {keys}; got {shown(value)}"
    return f"a mapping of names is wanted, got {shown(value)}"


def _tag_key(place: Place) -> tuple[str, str]:
    tags = set(tags_of(place.expected))
    if tags & {"train", "final"}:
        return "kind", "stage"
    for word_, mark in (("guard", "plateau"), ("activity", "freeze"), ("action", "send")):
        if mark in tags:
            return "type", word_
    return "type", "expression"


def _one_of(found: str, known: list[str]) -> str:
    hint = did_you_mean(found, known)
    return f"{hint} known: {', '.join(known)}" if hint.startswith("; did you mean") else hint


def _no_choice(value: Any, context: dict[str, Any], place: Place) -> str:
    if place.model is StageGraph and place.key == "stagegraph":
        return f"'stagegraph' is the version of the document, the number 1; got {shown(value)}"
    known = [str(choice) for choice in get_args(place.expected)]
    more = _POINTS if place.expected == Shape else ""
    return f"{shown(value)} is no {place.key!r}{_one_of(str(value), known)}{more}"


_POINTS = ", or points from [0, 0] to [1, 1] such as [[0, 0], [0.3, 0.1], [1, 1]]"


def _no_text(value: Any, context: dict[str, Any], place: Place) -> str:
    quotes = isinstance(value, int | float) or value is None
    return f"a text is wanted, got {shown(value)}" + ("; put it in quotes" if quotes else "")


def _no_whole_number(value: Any, context: dict[str, Any], place: Place) -> str:
    return f"a whole number is wanted, got {shown(value)}"


def _no_number(value: Any, context: dict[str, Any], place: Place) -> str:
    return f"a number is wanted, got {shown(value)}"


def _no_list(value: Any, context: dict[str, Any], place: Place) -> str:
    remedy = "; begin its items with '- ' or put them in brackets"
    return f"a list is wanted, got {shown(value)}{remedy}"


def _no_name(value: Any, context: dict[str, Any], place: Place) -> str:
    if ":" in context["pattern"]:
        return f"{shown(value)} points at no stage; write [region:][subgraph.]stage"
    return (
        f"{shown(value)} is no name; a name is a letter, then letters, digits and '_', 64 at most"
    )


def _bound(relation: str, key: str) -> Callable[[Any, dict[str, Any], Place], str]:
    def write(value: Any, context: dict[str, Any], place: Place) -> str:
        return f"{place.key!r} is {bounded(relation, context[key])}, got {shown(value)}"

    return write


def _size(relation: str, key: str, unit: str) -> Callable[[Any, dict[str, Any], Place], str]:
    def write(value: Any, context: dict[str, Any], place: Place) -> str:
        number = context[key]
        units = unit.removesuffix("s") if number == 1 else unit
        length = context.get("actual_length", len(value))
        owner = repr(place.key) if isinstance(place.key, str) else "this"
        return f"{owner} has {relation} {number} {units}, got {length}"

    return write


def _refused(value: Any, context: dict[str, Any], place: Place) -> str:
    return str(context["error"])


def _not_finite(value: Any, context: dict[str, Any], place: Place) -> str:
    return f"numbers are finite, got {value}"


_WORDS: dict[str, Callable[[Any, dict[str, Any], Place], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_invalid": _unknown_tag,
    "union_tag_not_found": _no_tag,
    "model_type": _no_mapping,
    "model_attributes_type": _no_mapping,
    "dict_type": _no_mapping,
    "literal_error": _no_choice,
    "string_type": _no_text,
    "string_pattern_mismatch": _no_name,
    "int_type": _no_whole_number,
    "float_type": _no_number,
    "tuple_type": _no_list,
    "greater_than": _bound("over", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("under", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": _size("at least", "min_length", "items"),
    "too_long": _size("at most", "max_length", "items"),
    "string_too_short": _size("at least", "min_length", "characters"),
    "string_too_long": _size("at most", "max_length", "characters"),
    "value_error": _refused,
    "finite_number": _not_finite,
}
