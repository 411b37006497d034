"""The JSON Schema of documents, made from the models, for editors and other languages.

Unions are written as ``if type is this, then that`` under an enumeration of all types: editors
then offer every kind, and point at the very key that is wrong. It is draft 7, which editors'
language servers know best. The loader stays the judge: what holds between keys is not in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import core_schema

from stagegraph.schema.base import Model
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.templates.registry import TEMPLATES

__all__ = ["SCHEMA_NAME", "json_schema", "schema_text", "write"]

SCHEMA_NAME = "stagegraph.schema.json"
"""The file's name under ``schemas/``."""

_UNION = "$union"
"""Marks a union that gets a definition of its own; the value is its name."""

_NUMBER_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}

_GUARD_TEXT: JsonSchemaValue = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2000,
    "examples": [
        "plateau(val_loss, worth=0.5%) and left(steps) > 6000",
        "elapsed(1k steps)",
        "event(name)",
    ],
}
_EXPRESSION_TEXT: JsonSchemaValue = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2000,
    "examples": ["best(val_loss) * 1.05", "20k"],
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a stage graph, draft 7.

    >>> json_schema()["$schema"]
    'http://json-schema.org/draft-07/schema#'
    """
    made = StageGraph.model_json_schema(
        by_alias=True, ref_template="#/definitions/{model}", schema_generator=_Generator
    )
    models = made.pop("$defs")
    made.pop("title")
    tidy = _Tidy()
    root = tidy.node(made)
    definitions = {name: tidy.node(model) for name, model in models.items()} | tidy.unions
    for model in _models(Model):
        if model.__name__ in definitions:
            _tighten(definitions[model.__name__], model)
    _offer_templates(definitions["Use"]["properties"])
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "stagegraph document, version 1",
        **root,
        "if": {"not": {"required": ["regions"]}},
        "then": {"required": ["initial", "stages"]},
        "else": {"properties": {"initial": False, "stages": False}},
        "definitions": dict(sorted(definitions.items())),
    }


def write(folder: Path) -> Path:
    """Write the schema into a folder.

    Returns:
        The file.
    """
    path = folder / SCHEMA_NAME
    path.write_text(schema_text(), encoding="utf-8", newline="\n")
    return path


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with unions that editors understand."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"non-serializable-default"}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """A union of strings and models as conditions on what stands there."""
        members = {
            str(tag): self.generate_inner(cast(Any, choice))
            for tag, choice in schema["choices"].items()
        }
        tags = set(members)
        if tags == {"name", "activity"}:
            return _text_or(members["name"], members["activity"])
        if tags == {"glob", "cohort", "group"}:
            group: JsonSchemaValue = {"if": {"required": ["group"]}, "then": members["group"]}
            return _text_or(members["glob"], {**group, "else": members["cohort"]})
        if tags == {"name", "weighted"}:
            return _text_or(members["name"], members["weighted"])
        if tags == {"shape", "points"}:
            return {"if": {"type": "array"}, "then": members["points"], "else": members["shape"]}
        if tags == {"level", "moving"}:
            moving = members["moving"]
            return {"if": {"type": "object"}, "then": moving, "else": members["level"]}
        if "regions" in tags:
            return _regions_schema(members)
        if "use" in tags:
            templates = {
                tag.removeprefix("use "): members.pop(tag)
                for tag in list(members)
                if tag.startswith("use ")
            }
            use: JsonSchemaValue = {
                "if": {"required": ["with"]},
                "then": _by_tag("use", templates),
                "else": members.pop("use"),
            }
            choice: JsonSchemaValue = {"if": {"type": "object", "required": ["use"]}, "then": use}
            by_kind = _by_tag("kind", members)
            what = {
                "description": "Instead of `kind`: the entry of `graphs` to put in here; or, with "
                f"`with`, a template: {', '.join(templates)}.",
            }
            by_kind["allOf"].append(
                {"if": {"not": {"required": ["kind"]}}, "then": {"properties": {"use": what}}}
            )
            return {_UNION: "Stage", **choice, "else": by_kind}
        if "number" in tags:
            number = members.pop("number")["anyOf"][0]
            other = {"anyOf": [number, _EXPRESSION_TEXT]}
            tree = _by_tag("type", members)
            return {_UNION: "Expression", "if": {"type": "object"}, "then": tree, "else": other}
        if "plateau" in tags:
            return {_UNION: "Guard", **_text_or(_GUARD_TEXT, _by_tag("type", members))}
        name = "Activity" if "freeze" in tags else "Action"
        return {_UNION: name, **_by_tag("type", members)}

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        """One thing may stand for a list of one where the model says so."""
        made = super().function_before_schema(schema)
        if getattr(schema["function"]["function"], "__name__", "") == "as_union":
            return {"if": {"type": "array"}, "then": made, "else": made["items"]}
        return made


def _regions_schema(members: dict[str, JsonSchemaValue]) -> JsonSchemaValue:
    """Regions by name, or a template of regions, which is told by the text behind ``use``."""
    regions = members.pop("regions")
    templates = {tag.removeprefix("use "): member for tag, member in members.items()}
    filled: JsonSchemaValue = {"properties": {"use": {"type": "string"}}, "required": ["use"]}
    named = ", ".join(templates)
    what = {"description": f"A region of that name; or, with `with`, a template: {named}."}
    return {
        "if": {"type": "object", **filled},
        "then": _by_tag("use", templates),
        "else": {**regions, "properties": {"use": what}},
    }


def _offer_templates(use: dict[str, Any]) -> None:
    """Let editors offer templates where an entry of ``graphs`` may be meant as well.

    What has ``with`` is judged as a template, so that this ``with`` is offered and never met.
    """
    use["use"]["examples"] = list(TEMPLATES)
    use["with"] = {"type": "object", "description": "For a template: what fills it in."}


def _tighten(definition: dict[str, Any], model: type[BaseModel]) -> None:
    """Write a field's own bounds to the number beside the text that spells it."""
    for name, field in model.model_fields.items():
        made = definition.get("properties", {}).get(field.alias or name, {})
        for one in made.get("anyOf", ()):
            if one.get("type") in ("number", "integer"):
                one.update(_bounds(field.annotation) | _bounds_of(field.metadata))


def _bounds(annotation: Any) -> dict[str, float]:
    """The bounds in a type's annotations; an outer one holds over an inner one."""
    bounds: dict[str, float] = {}
    for inner in get_args(annotation):
        if get_origin(annotation) is not Annotated or inner is get_args(annotation)[0]:
            bounds |= _bounds(inner)
    return bounds | _bounds_of(getattr(annotation, "__metadata__", ()))


def _bounds_of(marks: Iterable[Any]) -> dict[str, float]:
    bounds: dict[str, float] = {}
    for mark in marks:
        if isinstance(mark, FieldInfo):
            bounds |= _bounds_of(mark.metadata)
        for name, key in _NUMBER_BOUNDS.items():
            if isinstance(getattr(mark, name, None), int | float):
                bounds[key] = getattr(mark, name)
    return bounds


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _by_tag(key: str, members: dict[str, JsonSchemaValue]) -> JsonSchemaValue:
    return {
        "type": "object",
        "properties": {key: {"enum": list(members)}},
        "required": [key],
        "allOf": [
            {"if": {"properties": {key: {"const": tag}}, "required": [key]}, "then": member}
            for tag, member in members.items()
        ],
    }


def _text_or(text: JsonSchemaValue, other: JsonSchemaValue) -> JsonSchemaValue:
    return {"if": {"type": "string"}, "then": text, "else": other}


class _Tidy:
    """What pydantic makes, in the words of draft 7 and of JavaScript, each union once."""

    def __init__(self) -> None:
        self.unions: dict[str, Any] = {}

    def node(self, node: Any) -> Any:
        """One schema, without nulls, titles of pydantic's making, and Rust's patterns."""
        if isinstance(node, list):
            return [self.node(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = _without_null(node)
        if _UNION in node:
            return self._union(node)
        return {
            key: self._value(key, value)
            for key, value in _sizes_named(node).items()
            if key != "title"
        }

    def _value(self, key: str, value: Any) -> Any:
        if key in ("properties", "patternProperties"):
            return {_for_javascript(name): self.node(one) for name, one in value.items()}
        if key == "pattern":
            return _for_javascript(value)
        if key == "description":
            return " ".join(value.split()).replace("``", "`")
        return self.node(value)

    def _union(self, node: dict[str, Any]) -> dict[str, Any]:
        name = node.pop(_UNION)
        said = {key: node.pop(key) for key in ("description", "default") if key in node}
        self.unions[name] = self.node(node)
        return {"$ref": f"#/definitions/{name}", **self.node(said)}


def _sizes_named(node: dict[str, Any]) -> dict[str, Any]:
    """Pydantic counts a list or mapping behind a validator as if it were a string."""
    if "patternProperties" in node:
        return {**_renamed(node, "Properties"), "additionalProperties": False}
    if node.get("type") == "array" or node.get("if") == {"type": "array"}:
        return _renamed(node, "Items")
    return node


def _renamed(node: dict[str, Any], noun: str) -> dict[str, Any]:
    return {
        f"{key[:3]}{noun}" if key in ("minLength", "maxLength") else key: value
        for key, value in node.items()
    }


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """An optional key is left out; that null does as well is for dumps, not for people."""
    node = dict(node)
    if "default" in node and (node["default"] is None or isinstance(node["default"], dict)):
        del node["default"]
    choices = [one for one in node.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        del node["anyOf"]
        return {**choices[0], **node}
    if choices:
        node["anyOf"] = choices
    return node


def _for_javascript(pattern: str) -> str:
    return pattern.replace(r"\z", "$")
