"""Plain data written as YAML that reads back the same, here and in any YAML 1.1 or 1.2 reader."""

from __future__ import annotations

from typing import Any

import yaml

from stagegraph.schema.yaml_reader import CORE_NUMBER

__all__ = ["write_yaml"]

_WIDTH = 96


def write_yaml(data: dict[str, Any]) -> str:
    """Write mappings, lists, strings, numbers, booleans and nulls as YAML.

    What is short and holds nothing but scalars stands in one line.

    >>> print(write_yaml({"a": ["on", "1e3", 1.5, None], "b": {"c": {"d": "x: y"}}}), end="")
    a: ['on', '1e3', 1.5, null]
    b:
      c: {d: 'x: y'}
    """
    text: str = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10**9,
        default_flow_style=False,
    )
    return text


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, with short mappings and lists in one line and lists indented."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(  # PyYAML asks it this way
        self,
        flow: bool = False,  # noqa: FBT001, FBT002
        indentless: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        super().increase_indent(flow, False)

    def represent_sequence(
        self,
        tag: str,
        sequence: Any,
        flow_style: bool | None = None,  # noqa: FBT001
    ) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, _is_short(sequence))

    def represent_mapping(
        self,
        tag: str,
        mapping: Any,
        flow_style: bool | None = None,  # noqa: FBT001
    ) -> yaml.MappingNode:
        short = _is_short(list(mapping.values())) and _is_short(list(mapping))
        return super().represent_mapping(tag, mapping, short)

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # other styles fold the line breaks of Unicode, and not every reader unfolds them
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_real(self, data: float) -> yaml.ScalarNode:
        text = repr(data)
        if "." not in text:  # in YAML 1.1 a number with an exponent has a point
            text = text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


def _is_short(items: Any) -> bool:
    plain = not any(isinstance(item, dict | list) for item in items)
    return plain and sum(len(str(item)) + 2 for item in items) < _WIDTH


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(float, _Dumper.represent_real)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", CORE_NUMBER, list("-+0123456789."))
