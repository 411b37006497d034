"""CurriculumLoader: batches by difficulty, mixture, length and size, from any place on.

Everything that is drawn is a function of a position and of what is in force there
(:mod:`~.draws`), so that a run that is resumed, rewound or given other workers draws the same.
The position is counted in batches handed out: what workers have fetched ahead does not count.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from stagegraph.actions.data.bands import Bands, Score, are_mixtures, bands_of
from stagegraph.actions.data.draws import Cursor, Draw, Drawn, Knobs, Own, Sources, seed_of
from stagegraph.actions.data.fetching import Asked, AskedItems, Fetching, Request
from stagegraph.actions.data.options import (
    check_sources,
    checked_loading,
    checked_ranks,
    positive,
    shares_of,
)
from stagegraph.actions.data.running import Pass, Requests
from stagegraph.errors import (
    ProgressError,
    SnapshotError,
    UnsupportedError,
    another_version,
)

__all__ = ["CurriculumLoader"]

T = TypeVar("T")

_VERSION = 1
Weights = Mapping[str, float]


class CurriculumLoader(Generic[T]):
    """Batches from one or several map-style data sets, steered by the activities of a graph.

    Give it to the engine as ``data=`` and loop over it with ``engine.epochs(loader)``, or in a loop
    of your own. ``difficulty``, ``mixture``, ``sequence_length`` and ``batch_size`` of the graph
    then hold for its batches; :attr:`drawn` says what the last one was drawn by.

    A change holds from batch ``consumed + lead`` on, with :attr:`lead` the batches that workers
    may have fetched ahead: a function of what was used, and of nothing that workers do.

    >>> loader = CurriculumLoader(range(6), batch_size=2, score=range(6), levels=2, shuffle=False)
    >>> loader.steer(Knobs(level=0))
    0
    >>> [batch.tolist() for batch in loader][:2]
    [[0, 1], [2, 0]]

    Args:
        data: A data set with a length and items by index, or several by name.
        batch_size: How many samples a batch has, where no activity says otherwise.
        seed: Another seed, other orders; the same on all ranks.
        shuffle: Whether orders are random; else they are those of the data.
        score: How hard items are: ``"length"``, a number per item, or a function of the item; for
            all sources, or per source. The first and the last look at every item, once.
        levels: How many difficulty levels, at equal shares of all items; or the cuts between them,
            each the highest score of its level; or a mixture of the sources per level.
        cumulative: Whether a level admits what is easier too.
        weights: How sources are mixed, where no activity says; else as if they were one.
        length: How long sequences are, where no activity says.
        crop: ``crop(item, length)`` cuts an item to a length, for data sets that do not themselves
            (a data set with a method ``item(asked)`` is told the length).
        samples_per_epoch: How many samples a pass has; else as many as the sources have.
        drop_last: Whether a pass ends before a batch that would be short.
        isolated: Whether an item that draws global random numbers draws them from a seed of its
            own, and leaves the others as they were; without it they are as with any loader.
        lead: How many batches later a change holds; at least what workers fetch ahead.
        num_ranks: How many ranks share each batch; ``batch_size`` is for all of them together.
        rank: Which of them this is.
        loading: What ``torch.utils.data.DataLoader`` takes beside these: ``num_workers``,
            ``prefetch_factor``, ``collate_fn``, ``pin_memory``, ``worker_init_fn``, and so on.

    Attributes:
        drawn: What is known of the batch that was handed out last.
        lead: How many batches later a change holds.

    Raises:
        UnsupportedError: What is given does not go together.
    """

    def __init__(  # noqa: PLR0913 - what a sampler, its levels and a loader take, named once
        self,
        data: Any,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        score: Score | Mapping[str, Score] | None = None,
        levels: int | Sequence[float] | Sequence[Weights] | None = None,
        cumulative: bool = True,
        weights: Weights | None = None,
        length: int | None = None,
        crop: Callable[[Any, int], Any] | None = None,
        samples_per_epoch: int | None = None,
        drop_last: bool = False,
        isolated: bool = True,
        lead: int | None = None,
        num_ranks: int = 1,
        rank: int = 0,
        **loading: Any,
    ) -> None:
        sources = dict(data) if isinstance(data, Mapping) else {"data": data}
        check_sources(sources)
        collate = loading.pop("collate_fn", None)
        self._loading = checked_loading(loading)
        self._fetching = Fetching(sources, seed=seed, collate=collate, crop=crop, isolated=isolated)
        told = all(isinstance(one, AskedItems) for one in sources.values())
        self._cuts_length = crop is not None or told
        self._isolated = isolated
        self._ranks = checked_ranks(num_ranks, rank, batch_size, drop_last=drop_last)
        self._mixtures: tuple[tuple[tuple[str, float], ...], ...] | None = None
        bands = self._bands(sources, score, levels, cumulative=cumulative)
        total = sum(map(len, sources.values()))
        own = Own(
            seed=seed,
            shuffle=shuffle,
            batch_size=positive("batch_size", batch_size),
            per_epoch=positive("samples_per_epoch", samples_per_epoch or total),
            drop_last=drop_last,
            weights=None if weights is None else self.mixture(weights, what="weights"),
            length=length,
        )
        self._sources = Sources({name: len(one) for name, one in sources.items()}, bands, own)
        if length is not None and not self._cuts_length:
            raise UnsupportedError(_NO_CROP.format(what=f"length={length}"))
        self.lead = self._checked_lead(lead)
        self.drawn: Drawn | None = None
        self._cursor = Cursor()
        self._knobs = Knobs()
        self._pending: tuple[tuple[int, Knobs], ...] = ()
        self._goes_on = False
        self._turn = 0
        self._running: weakref.ref[Pass[T]] | None = None
        self._listener: Callable[[Drawn], None] | None = None
        self._inner: DataLoader[Any] = DataLoader(
            self._fetching,
            sampler=Requests(self),
            batch_size=None,
            collate_fn=_itself,
            generator=torch.Generator(),
            **self._loading,
        )

    # What it is

    @property
    def batch_size(self) -> int:
        """Its own batch size, whatever is in force."""
        return self._sources.own.batch_size

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of its sources."""
        return tuple(self._sources.sizes)

    @property
    def num_levels(self) -> int:
        """How many difficulty levels it has; 0 if it knows none."""
        if self._mixtures is not None:
            return len(self._mixtures)
        return 0 if self._sources.bands is None else self._sources.num_bands

    @property
    def mixes_by_level(self) -> bool:
        """Whether its levels are mixtures of the sources."""
        return self._mixtures is not None

    @property
    def cuts_length(self) -> bool:
        """Whether it can give sequences of a length."""
        return self._cuts_length

    @property
    def isolated(self) -> bool:
        """Whether items that draw global random numbers are functions of seed, epoch and index."""
        return self._isolated

    @property
    def prefetch(self) -> int:
        """How many batches workers fetch ahead of the one in hand."""
        workers = int(self._loading.get("num_workers", 0))
        return workers * int(self._loading.get("prefetch_factor") or 2)

    @property
    def consumed(self) -> int:
        """How many batches were handed out in the run."""
        return self._cursor.number

    @property
    def epoch(self) -> int:
        """Which pass the next batch belongs to, from 0."""
        return self._cursor.epoch

    @property
    def in_pass(self) -> bool:
        """Whether a pass was begun and is not over."""
        return self._cursor.samples > 0

    @property
    def coming_epoch(self) -> int:
        """Which pass the next ``iter`` gives, from 0."""
        return self._cursor.epoch + (self.in_pass and not self._goes_on)

    @property
    def pass_over(self) -> bool:
        """Whether the last batch ended its pass, and no other was begun."""
        return self.drawn is not None and self.drawn.last and not self.in_pass

    def __len__(self) -> int:
        """How many batches a pass has at the loader's own batch size."""
        whole, rest = divmod(self._sources.own.per_epoch, self._sources.own.batch_size)
        return max(1, whole + (rest > 0 and not self._sources.own.drop_last))

    # What steers it

    def mixture(self, weights: Weights, *, what: str) -> tuple[tuple[str, float], ...]:
        """Weights in the order of the sources, made to add up to 1.

        Raises:
            UnsupportedError: One is of no source, is no number, or all are 0.
        """
        return shares_of(weights, self._fetching.sources, what=what)

    def mixture_of(self, level: int) -> tuple[tuple[str, float], ...] | None:
        """The mixture that a level is, if levels are mixtures."""
        return None if self._mixtures is None else self._mixtures[level]

    def in_force(self, number: int | None = None) -> Knobs:
        """What a batch is drawn by; by default the next one."""
        at = self._cursor.number if number is None else number
        knobs = self._knobs
        for begin, later in self._pending:
            if begin <= at:
                knobs = later
        return knobs

    @property
    def coming(self) -> Knobs:
        """What was asked for last, in force or not yet."""
        return self._pending[-1][1] if self._pending else self._knobs

    def steer(self, knobs: Knobs) -> int:
        """Draw by these from the first batch that cannot have been fetched yet.

        Args:
            knobs: All that is to be in force; what it leaves open is as the loader was made.

        Returns:
            The number of the batch from which they hold.

        Raises:
            UnsupportedError: No batch can be drawn by them.
        """
        used = self._cursor.number
        begin = used + self.lead if used else 0
        if knobs == self.coming:
            return next((at for at, known in self._pending if known == knobs), used)
        self._check(knobs)
        if begin == 0:  # nothing was used yet: what a worker may have fetched is fetched again
            self._knobs, self._pending = knobs, ()
            self._turn += 1
            return 0
        earlier = tuple((at, known) for at, known in self._pending if at < begin)
        held_from, before = earlier[-1] if earlier else (used, self._knobs)
        if knobs == before:  # what was to come is taken back
            self._pending = earlier
            return held_from
        self._pending = (*earlier, (begin, knobs))
        return begin

    def _check(self, knobs: Knobs) -> None:
        self._sources.check(knobs)
        if knobs.batch_size is not None and knobs.batch_size % self._ranks[0]:
            raise UnsupportedError(
                f"a batch of {knobs.batch_size} cannot be shared evenly by {self._ranks[0]} ranks"
            )

    def listen(self, listener: Callable[[Drawn], None]) -> None:
        """Tell somebody, and nobody else, of each batch before the loop gets it."""
        self._listener = listener

    def forget(self, listener: Callable[[Drawn], None]) -> None:
        """Tell that one no more."""
        if self._listener is listener:
            self._listener = None

    def skip(self, batches: int) -> None:
        """Pass over the next batches; none of them is fetched."""
        for _ in range(batches):
            draw = self._sources.draw(self._cursor, self.in_force())
            self._cursor, self.drawn = draw.after, draw.facts
            self._take_up_to(draw.facts.number)
        self._turn += 1

    def remember(self) -> Callable[[], None]:
        """A way back to the position and what is in force as they are now."""
        before = (self._cursor, self._knobs, self._pending, self._goes_on, self.drawn, self.lead)
        turn = self._turn

        def way_back() -> None:
            if self._turn != turn:
                self._turn += 1
            (self._cursor, self._knobs, self._pending, self._goes_on, self.drawn, self.lead) = (
                before
            )

        return way_back

    # Batches

    def __iter__(self) -> Iterator[T]:
        """The next pass; the rest of the present one after :meth:`load_state_dict`.

        A pass that was left early is over. Each source goes on from where it is in any case.
        """
        if self.in_pass and not self._goes_on:
            cursor = self._cursor
            self._cursor = Cursor(cursor.number, cursor.epoch + 1, 0, cursor.taken)
        self._goes_on = False
        self._turn += 1
        running = Pass(self)
        self._running = weakref.ref(running)
        return running

    def rest(self) -> Iterator[T]:
        """The rest of the present pass, or the next one if none was begun."""
        self._goes_on = True
        return iter(self)

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """The position, in batches handed out, and what is in force, as JSON data."""
        return {
            "version": _VERSION,
            "fits": self._fits(),
            "lead": self.lead,
            "position": self._cursor.to_json(),
            "knobs": self._knobs.to_json(),
            "pending": [[at, knobs.to_json()] for at, knobs in self._pending],
            "drawn": None if self.drawn is None else self.drawn.to_json(),
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state; a running pass goes on from there with its next batch.

        Raises:
            SnapshotError: It is of another loader, or cannot be read.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if version != _VERSION:
            raise SnapshotError(another_version("the loader's state", version, newest=_VERSION))
        try:
            differing = [k for k, v in self._fits().items() if state["fits"].get(k) != v]
            cursor, knobs = Cursor.from_json(state["position"]), Knobs.from_json(state["knobs"])
            pending = tuple((int(at), Knobs.from_json(one)) for at, one in state["pending"])
            lead, drawn = int(state["lead"]), state["drawn"]
            drawn = None if drawn is None else Drawn.from_json(drawn)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise SnapshotError(f"the loader's state cannot be read: {error!r}") from error
        if differing:
            key = differing[0]
            raise SnapshotError(
                f"the run's loader had {key}={state['fits'].get(key)!r}, and this one has "
                f"{self._fits()[key]!r}; go on with the loader that the run began with"
            )
        if lead < self.prefetch:
            warnings.warn(
                f"the run's changes of the data held {lead} batches later, and the workers of this "
                f"loader fetch {self.prefetch} ahead: from here on changes hold later than they "
                f"would have; for the same batches take at most {lead} batches of prefetch",
                stacklevel=2,
            )
        self.lead = max(lead, self.prefetch)
        self._cursor, self._knobs, self._pending, self.drawn = cursor, knobs, pending, drawn
        self._goes_on = self.in_pass
        self._turn += 1

    def _fits(self) -> dict[str, Any]:
        """What must be the same for a position to mean the same."""
        sources, own = self._sources, self._sources.own
        bands = None if sources.bands is None else [list(c) for c in sources.band_sizes.values()]
        return {
            "sources": dict(sources.sizes),
            "seed": own.seed,
            "shuffle": own.shuffle,
            "batch_size": own.batch_size,
            "samples_per_epoch": own.per_epoch,
            "drop_last": own.drop_last,
            "items_per_level": bands,
            "weights": None if own.weights is None else dict(own.weights),
        }

    # Within

    def _bands(
        self, sources: Mapping[str, Any], score: Any, levels: Any, *, cumulative: bool
    ) -> Bands | None:
        if are_mixtures(levels):
            if score is not None:
                raise UnsupportedError("levels= are mixtures of sources, which no score= cuts")
            self._mixtures = tuple(
                self.mixture(one, what=f"levels[{at}]") for at, one in enumerate(levels)
            )
            return None

        def item(name: str, index: int) -> Any:
            seed = seed_of(0, "score", name, index)
            return self._fetching.item(name, Asked(index, 0, None, seed))

        return bands_of(sources, score, levels, cumulative=cumulative, item=item)

    def _checked_lead(self, lead: int | None) -> int:
        if lead is not None and lead < self.prefetch:
            raise UnsupportedError(
                f"lead={lead}, and workers fetch {self.prefetch} batches ahead, which a change "
                f"cannot reach any more; give {self.prefetch} or more"
            )
        return self.prefetch if lead is None else lead

    # What a pass asks of it

    def turn_of(self, one: Pass[T]) -> int:
        """Which turn it is, for the pass that runs.

        Raises:
            ProgressError: It is not that one.
        """
        if self._running is None or self._running() is not one:
            raise ProgressError(
                "another pass over this loader was begun, and only one can run at a time; finish "
                "a pass before the next, or make a second loader"
            )
        return self._turn

    def open(self, one: Pass[T]) -> Iterator[T]:
        """Fetch from the present position on; no global random number is drawn."""
        self._goes_on = False
        seed = seed_of(self._sources.own.seed, "workers", self._cursor.number)
        self._inner.generator.manual_seed(seed)
        return iter(self._inner)

    def request(self, at: Cursor | None) -> tuple[Request, Cursor, bool]:
        """The batch at a position, drawn; by default at the present one.

        Returns:
            What to fetch, the position after it, and whether the pass is over with it.
        """
        cursor = self._cursor if at is None else at
        draw = self._sources.draw(cursor, self.in_force(cursor.number))
        running = None if self._running is None else self._running()
        if running is not None:
            running.drawn.append(draw)
        ranks, rank = self._ranks
        picks = draw.picks[rank::ranks]
        return Request(cursor.number, picks, draw.facts.length), draw.after, draw.facts.last

    def hand_out(self, draw: Draw) -> None:
        """A batch is used from here on."""
        self._cursor, self.drawn = draw.after, draw.facts
        self._take_up_to(draw.facts.number)
        if self._listener is not None:
            self._listener(draw.facts)

    def _take_up_to(self, number: int) -> None:
        begun = [knobs for at, knobs in self._pending if at <= number]
        if begun:
            self._knobs = begun[-1]
            self._pending = self._pending[len(begun) :]


_NO_CROP = (
    "{what}: the loader cannot cut items to a length; give it crop= (a function of item and "
    "length), or the data set a method item(asked), which is told asked.length"
)


def _itself(batch: T) -> T:
    return batch
