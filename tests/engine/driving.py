"""A small engine to drive by hand, and an actor that fails when told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from stagegraph.engine.core import Core
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.ports import Boundary, Outcome, Record
from stagegraph.errors import ActionError
from stagegraph.graph.compile import compile_graph
from stagegraph.schema.load import load

HEADER = "stagegraph: 1\nname: test\n"


class FakeActor(NumbersActor):
    """Adds up parameters; fails at the places and as often as it was told.

    With ``fails_last`` the last of a boundary's deeds fails, whatever it is.
    """

    def __init__(self, params: int | None = None, costs: dict[str, int] | None = None) -> None:
        super().__init__(params, costs)
        self.boundaries: list[Boundary] = []
        self.tuned: list[dict[str, float]] = []
        self.failures: dict[str, int] = {}
        self.fails_last = False

    def transact(self, boundary: Boundary, confirm: Callable[[Outcome], None]) -> Outcome:
        for deed in boundary.deeds:
            told = self.failures.get(deed.place, 0) > 0
            if told or (self.fails_last and deed is boundary.deeds[-1]):
                self.failures[deed.place] = self.failures.get(deed.place, 0) - 1
                raise ActionError(deed.place, "told to fail")
        outcome = super().transact(boundary, confirm)
        self.boundaries.append(boundary)
        return outcome

    def tune(self, values: Any) -> None:
        self.tuned.append(dict(values))

    @property
    def deeds(self) -> list[str]:
        """The places of all actions carried out."""
        return [deed.place for boundary in self.boundaries for deed in boundary.deeds]


class Run(list[Record]):
    """An engine with its journal: a list of records.

    Args:
        document: YAML without its first two keys, or a whole document as a dict.
        params: Parameters of the model.
        costs: By stage key.
        options: For the core.
    """

    def __init__(
        self,
        document: str | dict[str, Any],
        *,
        params: int | None = None,
        costs: dict[str, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.document = document
        self.graph = load(HEADER + document if isinstance(document, str) else document)
        compiled, problems = compile_graph(self.graph)
        assert not problems.found, problems.found
        self.actor = FakeActor(params, costs)
        self.core = Core(compiled, self.actor, sink=self, **options)
        self._given = {"params": params, "costs": costs, **options}

    def write(self, records: tuple[Record, ...]) -> None:
        self.extend(json.loads(json.dumps(record, allow_nan=False)) for record in records)

    def step(self, times: int = 1, /, **values: Any) -> Run:
        """The same update so many times."""
        for _ in range(times):
            self.core.step(**values)
        return self

    def resumed(self) -> Run:
        """Another engine that goes on from here, by way of JSON."""
        other = Run(self.document, **self._given)
        other.core.load_state_dict(json.loads(json.dumps(self.core.state_dict(), allow_nan=False)))
        return other

    @property
    def stages(self) -> dict[str, str]:
        return self.core.stages

    @property
    def stage(self) -> str:
        """The stage of the only region."""
        return self.core.stages["main"]

    @property
    def moves(self) -> list[tuple[int, str]]:
        """At which boundary which edge was taken; boundary 0 left out."""
        return [(r["boundary"], r["edge"]) for r in self if r["type"] == "move" and r["edge"]]

    @property
    def entered(self) -> list[tuple[int, str]]:
        """At which boundary which stage was entered."""
        return [(r["boundary"], r["target"]) for r in self if r["type"] == "move"]

    def of_type(self, kind: str, *keys: str) -> list[Any]:
        """Records of a type, or of each the values of some keys."""
        found = [record for record in self if record["type"] == kind]
        if len(keys) == 1:
            return [record[keys[0]] for record in found]
        return [tuple(record[key] for key in keys) for record in found] if keys else found
