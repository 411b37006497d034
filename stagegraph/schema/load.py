"""load: from a path, a text or a dict to a StageGraph, or to all that is wrong with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stagegraph.errors import Defect, DocumentError, did_you_mean
from stagegraph.schema.defects import all_defects
from stagegraph.schema.json_reader import read_json
from stagegraph.schema.limits import MAX_BYTES
from stagegraph.schema.plain import read_plain
from stagegraph.schema.reading import Reading, shown
from stagegraph.schema.source import Source
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.unquoted import find_unquoted
from stagegraph.schema.yaml_reader import read_yaml

__all__ = ["load"]

ENDINGS = (".yaml", ".yml", ".json")


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> StageGraph:
    """Read a stage graph.

    A string of one line that ends in ``.yaml``, ``.yml`` or ``.json`` is a path; any other string
    is the document itself, JSON or YAML.

    >>> graph = load('''
    ... stagegraph: 1
    ... name: short
    ... initial: train
    ... stages:
    ...   train: {kind: train, duration: 100 steps, next: done}
    ...   done: {kind: final}
    ... ''')
    >>> graph.stages["train"].duration.amount
    100
    >>> graph.source.position("/stages/done")
    (7, 3)

    Args:
        source: A path, a text, or plain data.

    Returns:
        The graph; its ``source`` knows the file, and the line and column of everything.

    Raises:
        DocumentError: It cannot be read; with all defects, each with its place.
    """
    if isinstance(source, Mapping):
        return _validated("<dict>", read_plain(source))
    if isinstance(source, os.PathLike):
        return _load_file(Path(source))
    if not isinstance(source, str):
        raise TypeError(f"a path, a text or a dict is read as a stage graph, got {source!r:.80}")
    if "\n" not in source and source.lower().endswith(ENDINGS):
        return _load_file(Path(source))
    return _load_text("<text>", source, is_json=_looks_like_json(source))


def _load_file(path: Path) -> StageGraph:
    text = _text_of(path)
    ending = path.suffix.lower()
    is_json = _looks_like_json(text) if ending not in ENDINGS else ending == ".json"
    return _load_text(str(path), text, is_json=is_json)


def _load_text(file: str, text: str, *, is_json: bool) -> StageGraph:
    if len(text) > MAX_BYTES:
        raise _refusal(file, f"over {MAX_BYTES:,} characters; a stage graph is smaller")
    if not text.isascii():
        _refuse_halves(file, text)
    if not text.strip():
        raise _refusal(file, "it is empty; a stage graph begins with 'stagegraph: 1'")
    reading = read_json(text) if is_json else read_yaml(text)
    if not is_json:
        find_unquoted(reading)
        _find_empty(reading)
    return _validated(file, reading)


def _refuse_halves(file: str, text: str) -> None:
    """Refuse halves of characters, which a text may hold in Python and in no file."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        column = error.start - text.rfind("\n", 0, error.start)
        message = f"{text[error.start]!r} is half a character; decode the text as UTF-8"
        raise DocumentError(file, [Defect(message, "", line, column)]) from None


def _validated(file: str, reading: Reading) -> StageGraph:
    data = reading.data
    if not reading.complete or "" in reading.muted:
        raise DocumentError(file, all_defects(reading, None))
    if not isinstance(data, Mapping):
        reading.refuse(_no_mapping(reading), "", reading.positions.get(""))
        raise DocumentError(file, all_defects(reading, None))
    _check_version(file, reading)
    failure: ValidationError | None = None
    try:
        graph = StageGraph.model_validate(dict(data))
    except ValidationError as error:
        failure = error
    if failure is not None or reading.defects:
        raise DocumentError(file, all_defects(reading, failure))
    if reading.positions:
        graph._source = Source(file, reading.text, reading.positions)
    return graph


def _check_version(file: str, reading: Reading) -> None:
    version = reading.data.get("stagegraph")
    line, column = reading.positions.get("/stagegraph", (None, None))
    if isinstance(version, bool | float):
        message = f"the version is a whole number, got {shown(version)}; write 'stagegraph: 1'"
        raise DocumentError(file, [Defect(message, "/stagegraph", line, column)])
    if isinstance(version, int) and version > 1:
        message = (
            f"this document is of version {version}; this stagegraph is too old for it and reads "
            "version 1: pip install --upgrade stagegraph"
        )
        raise DocumentError(file, [Defect(message, "/stagegraph", line, column)])


def _no_mapping(reading: Reading) -> str:
    data = reading.data
    if data is None and not reading.positions:
        return "it is empty but for comments; a stage graph begins with 'stagegraph: 1'"
    message = f"a stage graph is a mapping that begins with 'stagegraph: 1'; got {shown(data)}"
    if isinstance(data, str) and "\n" not in data:
        message += f" (a path ends in {', '.join(ENDINGS)})"
    return message


def _find_empty(reading: Reading) -> None:
    for pointer in reading.empty - reading.muted - {""}:
        key = pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
        what = f"nothing stands behind '{key}:'" if pointer in reading.keys else "an empty item"
        position = reading.keys.get(pointer) or reading.positions[pointer]
        reading.refuse(f"{what}; give it a value, or leave it out", pointer, position)


def _looks_like_json(text: str) -> bool:
    start = text.lstrip()
    return start[:1] == "{" and start[1:].lstrip()[:1] in ('"', "}", "")


def _refusal(file: str, message: str) -> DocumentError:
    return DocumentError(file, [Defect(message)])


def _text_of(path: Path) -> str:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _refusal(str(path), f"it is a folder, not a file{_files_in(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(str(path), "it is not a regular file")
        if status.st_size > MAX_BYTES:
            message = f"it has {status.st_size:,} bytes; a stage graph has at most {MAX_BYTES:,}"
            raise _refusal(str(path), message)
        with path.open("rb") as file:
            return _decoded(str(path), file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        raise _refusal(str(path), f"there is no such file{_neighbours(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(str(path), f"it cannot be read: {reason}") from error


def _decoded(file: str, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refusal(file, "it is written in UTF-16; save it as UTF-8")
    if data.startswith(b"\xef\xbb\xbf"):
        raise _refusal(file, "it begins with a byte order mark; save it as UTF-8 without BOM")
    if b"\0" in data:
        raise _refusal(file, "it is a binary file, not a text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = (
            f"it is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; save it as UTF-8"
        )
        raise _refusal(file, message) from None


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {str(folder)!r} either"
    names = _documents(folder)
    if not names:
        return f"; the folder {str(folder)!r} has no {', '.join(ENDINGS)} files"
    return did_you_mean(path.name, names)


def _files_in(folder: Path) -> str:
    names = _documents(folder)
    return f"; in it: {', '.join(names[:12])}" if names else ""


def _documents(folder: Path) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if one.suffix.lower() in ENDINGS)
    except OSError:
        return []
