"""Pages of the documentation: their code blocks, and what they show is run.

A page is run from top to bottom, in a folder of its own and with one namespace:

* ``yaml``: a stage graph, or a part of one (see :mod:`tests.contracts.fragments`); it must load.
  A first line ``# NAME.yaml`` makes it the file of that name.
* ``python``: is executed.
* ``console``: every ``$ stagegraph …`` runs through the command's own ``main``, and the lines below
  it are its output; ``$ echo $?`` shows its exit status. ``$ make …`` must name a target of the
  Makefile; ``$ python …`` and ``$ git …`` are for people.
* ``text``: what the block before it wrote.

In an output, ``…`` stands for anything in a line, and alone in a line for any lines. After ``text
approx`` or ``console approx`` numbers may differ: training is not the same on all machines.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stagegraph as sg
from stagegraph.cli.main import main
from tests.contracts.fragments import as_graph

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^( *)```(\w*)( approx)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?[kM]?")
_FILE = re.compile(r"# ([\w-]+\.yaml)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, and the line that its fence stands in."""

    language: str
    text: str
    line: int
    approximate: bool = False


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(match[2], match[4], line, approximate=bool(match[3]))


class Reader:
    """Somebody who types everything that a page shows, in the present folder."""

    def __init__(self, page: Path, namespace: dict[str, Any] | None = None) -> None:
        self.page = page
        self.namespace: dict[str, Any] = namespace if namespace is not None else {}
        self._written: str | None = None
        self._status = 0

    def read(self) -> int:
        """Do it all; returns how many blocks there were."""
        count = 0
        for block in blocks(self.page):
            handle = getattr(self, f"_{block.language or 'text'}", None)
            assert handle is not None, f"{self._place(block)}: a block of {block.language!r}"
            handle(block)
            count += 1
        return count

    def _place(self, block: Block) -> str:
        return f"{self.page.name}:{block.line}"

    def _yaml(self, block: Block) -> None:
        named = _FILE.match(block.text)
        if named:
            Path(named[1]).write_text(block.text, encoding="utf-8")
            return
        self._written = None
        sg.load(as_graph(block.text))

    def _python(self, block: Block) -> None:
        code = compile("\n" * block.line + block.text, str(self.page), "exec")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, self.namespace)
        self._written = out.getvalue()

    def _text(self, block: Block) -> None:
        assert self._written is not None, f"{self._place(block)}: the output of what?"
        self._compare(block, block.text, self._written)

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _console(self, block: Block) -> None:
        for command, shown in _commands(block.text):
            words = shlex.split(command, comments=True)
            match words:
                case ["stagegraph", *arguments]:
                    written = self._run(arguments)
                case ["echo", "$?"]:
                    written = f"{self._status}\n"
                case ["make", target, *_]:
                    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                    assert f"\n{target}:" in makefile, f"{self._place(block)}: {command}"
                    continue
                case ["python" | "git" | "cd", *_]:
                    continue
                case _:
                    raise AssertionError(f"{self._place(block)}: nobody can run {command!r}")
            if shown:
                self._compare(block, shown, written)

    def _run(self, arguments: list[str]) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                self._status = main(arguments)
            except SystemExit as error:
                self._status = int(str(error.code or 0))
        return out.getvalue()

    def _compare(self, block: Block, shown: str, written: str) -> None:
        shown, written = _stripped(shown), _stripped(written)
        assert _pattern(shown, approximate=block.approximate).fullmatch(written), (
            f"{self._place(block)} shows\n{shown}\nand there came\n{written}"
        )


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Commands with the output shown below each; a command goes on after a backslash."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        count = 1
        while lines[count - 1].endswith("\\"):
            count += 1
        command = " ".join(line.removesuffix("\\").strip() for line in lines[:count])
        yield command, "\n".join(lines[count:]).strip("\n")


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))


def _pattern(shown: str, *, approximate: bool) -> re.Pattern[str]:
    parts = []
    for line in shown.split("\n"):
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
            continue
        words = _NUMBER.split(line) if approximate else [line]
        escaped = (re.escape(word).replace("…", ".*") for word in words)
        pattern = _NUMBER.pattern.join(escaped)
        parts.append((re.sub(r"(\\ )+", " +", pattern) if approximate else pattern) + r"\n")
    whole = "".join(parts)
    return re.compile(whole.removesuffix(r"\n") if whole.endswith(r"\n") else whole + ".*")
