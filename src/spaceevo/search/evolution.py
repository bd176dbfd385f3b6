"""One search loop for spaces and subnets; strategies say which individuals to evaluate next.

The loop evaluates a batch, asks its strategy for the next one, and stops when there is none. All that a search
remembers is a `SearchState` of plain values, so that a search that was killed continues as if nothing had happened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from spaceevo.errors import CheckpointError, ConfigError, EncodingError
from spaceevo.search.problems import Item, SpaceProblem, SubnetProblem, distinct, feasible_ones, first_accepted
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember

Found = TypeVar("Found", bound=Hashable, covariant=True)
PATIENCE = 1000  # Samples without a new individual after which a search counts as exhausted


@dataclass
class SearchState(Generic[Item]):
    """Holds all that a search remembers."""

    rng: random.Random  # of every random decision
    population: list[Item] = field(default_factory=list)  # what the strategy works on, in its order
    # proposed last, some perhaps not evaluated yet; none when the search has ended
    batch: list[Item] = field(default_factory=list)
    history: dict[Item, float] = field(default_factory=dict)  # every evaluated individual's score, in order
    generation: int = 0  # number of batches proposed
    best: tuple[Item, float] = field(init=False, repr=False, compare=False)  # the first of the highest score

    def record(self, item: Item, score: float) -> None:
        """Remember the score of an individual."""
        self.history[item] = score
        if len(self.history) == 1 or score > self.best[1]:
            self.best = (item, score)

    def to_json(self) -> dict[str, Any]:
        """Write all of it as plain JSON values, individuals as texts."""
        version, internal, gauss = self.rng.getstate()
        return {
            "generation": self.generation,
            "population": list(map(str, self.population)),
            "batch": list(map(str, self.batch)),
            "history": [[str(item), score] for item, score in self.history.items()],
            "rng": [version, list(internal), gauss],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], decode: Callable[[str], Item]) -> SearchState[Item]:
        """Read what `to_json` writes; a `CheckpointError` says which part is broken."""
        try:
            version, internal, gauss = value["rng"]
            state = cls(random.Random(), generation=int(value["generation"]))
            state.rng.setstate((version, tuple(internal), gauss))
            state.population = [decode(text) for text in value["population"]]
            state.batch = [decode(text) for text in value["batch"]]
            for text, score in value["history"]:
                state.record(decode(text), float(score))
        except (KeyError, TypeError, ValueError, OverflowError, EncodingError) as error:
            raise CheckpointError(
                f"saved search state is broken ({repr(error)[:200]}); delete it to start over"
            ) from error
        return state


class Problem(Protocol[Found]):
    """What the loop asks of a problem."""

    def decode(self, text: str) -> Found:
        """Read the text of an individual."""


class Strategy(Protocol[Item]):
    """Which individuals to evaluate next."""

    @property
    def problem(self) -> Problem[Item]:
        """What is searched."""

    @property
    def total(self) -> int:
        """Greatest number of evaluations."""

    def advance(self, state: SearchState[Item]) -> list[Item]:
        """Take in the evaluated batch and propose the next: new, distinct individuals; none ends the search."""


def evolve(
    strategy: Strategy[Item],
    evaluate: Callable[[Item], float],
    rng: random.Random,
    *,
    resume: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    save_every: int = 1,
    on_evaluation: Callable[[int, int, tuple[Item, float]], None] | None = None,
    on_batch: Callable[[SearchState[Item]], None] | None = None,
) -> SearchState[Item]:
    """Search for the individual of the highest score, each evaluated once; return the last state.

    Args:
        strategy: what to evaluate next.
        evaluate: the score of an individual, higher is better.
        rng: source of all randomness; unused when resuming.
        resume: a saved state to continue from.
        save: receives the state as JSON values, from which the search continues identically.
        save_every: evaluations between two saves; the last state is saved in any case.
        on_evaluation: receives evaluations done, their greatest number, and the best individual with its score.
        on_batch: receives the state whose batch comes next, e.g. to evaluate it in parallel.

    Raises:
        CheckpointError: `resume` is not a saved state of this problem.
        ConstraintError: no individual meets the problem's requirement.
    """
    state = SearchState(rng) if resume is None else SearchState.from_json(resume, strategy.problem.decode)
    while state.batch or state.generation == 0:
        if on_batch and state.batch:
            on_batch(state)
        for item in state.batch:
            if item in state.history:
                continue
            state.record(item, evaluate(item))
            if on_evaluation:
                on_evaluation(len(state.history), strategy.total, state.best)
            if save and len(state.history) % save_every == 0:
                save(state.to_json())
        state.batch = strategy.advance(state)[: strategy.total - len(state.history)]
        state.generation += 1
    if save:
        save(state.to_json())
    return state


@dataclass(frozen=True)
class AgeingEvolution:
    """Searches spaces by ageing evolution: the best of a random sample has children, which replace the oldest ones.

    Ends early where mutation finds nothing new any more.
    """

    problem: SpaceProblem
    population: int = 500
    sample: int = 125
    total: int = 5000

    def __post_init__(self) -> None:
        require_positive(population=self.population, sample=self.sample, total=self.total)

    def advance(self, state: SearchState[SpaceMember]) -> list[SpaceMember]:
        """Let the batch replace the oldest, then propose the children of a new parent; see `Strategy`."""
        if state.generation == 0:
            first = list(dict.fromkeys(self.problem.starts()))[: self.population]
            return distinct(first, self.population, lambda: self.problem.sample(state.rng), lambda _: True, PATIENCE)
        state.population = (state.population + state.batch)[-self.population :]
        ranked = sorted(state.population, key=state.history.__getitem__, reverse=True)
        for _ in range(PATIENCE):
            # The first of n is the best of a sample with probability size / n; if not, the second with size / (n - 1)…
            places = zip(range(len(ranked), 0, -1), ranked, strict=True)
            parent = next(item for left, item in places if state.rng.random() * left < self.sample)
            children = dict.fromkeys(self.problem.children(parent, state.rng))
            if new := [child for child in children if child not in state.history]:
                return new
        return []


@dataclass(frozen=True)
class GenerationalEvolution:
    """Searches feasible subnets by generations: the best half of the population has mutants and crossovers.

    The first population is the first of the `generations`. A crossover of two distinct parents gives way to a mutant
    after `crossover_tries` without a new feasible child; after `tries` of a mutant the space counts as exhausted.
    """

    problem: SubnetProblem
    population: int = 512
    generations: int = 20
    mutants: int = 128
    crossovers: int = 128
    crossover_tries: int = 50
    tries: int = 20_000

    def __post_init__(self) -> None:
        require_positive(population=self.population, generations=self.generations)

    @property
    def total(self) -> int:
        """Greatest number of evaluations."""
        return self.population + (self.generations - 1) * (self.mutants + self.crossovers)

    def advance(self, state: SearchState[SubnetSpec]) -> list[SubnetSpec]:
        """Keep the best half of population and batch, and propose its children; see `Strategy`."""
        if state.generation == 0:
            first = partial(self.problem.sample, state.rng)
            return feasible_ones(self.problem, self.problem.starts, self.population, first, self.tries)
        everyone = sorted(state.population + state.batch, key=lambda item: -state.history[item])
        state.population = everyone[: min(self.population, len(everyone) + 1) // 2]
        return self._children(state) if state.generation < self.generations else []

    def _children(self, state: SearchState[SubnetSpec]) -> list[SubnetSpec]:
        rng = state.rng
        parents = state.population
        children: dict[SubnetSpec, None] = {}

        def is_new(item: SubnetSpec) -> bool:
            return item not in children and item not in state.history and self.problem.feasible(item)

        def mutant() -> SubnetSpec:
            return self.problem.mutate(rng.choice(parents), rng)

        def crossover() -> SubnetSpec:
            first, second = rng.sample(parents, 2)
            return self.problem.crossover(first, second, rng)

        for number in range(self.mutants + self.crossovers):
            crosses = number >= self.mutants and len(parents) > 1
            child = first_accepted(crossover, is_new, self.crossover_tries) if crosses else None
            child = child if child is not None else first_accepted(mutant, is_new, self.tries)
            if child is None:
                break
            children[child] = None
        return list(children)


@dataclass(frozen=True)
class LocalSearch:
    """Searches spaces by coordinate ascent: the best option of one stage after another, then a new random start.

    The state's population is the path of the current ascent.
    """

    problem: SpaceProblem
    total: int = 3000

    def __post_init__(self) -> None:
        require_positive(total=self.total)

    def advance(self, state: SearchState[SpaceMember]) -> list[SpaceMember]:
        """Climb as far as known scores tell, then propose the options of the next position; see `Strategy`."""
        for _ in range(PATIENCE):
            if self._is_at_top(state.population):
                state.population = [self.problem.sample(state.rng)]
            path = state.population
            position = (len(path) - 1) % len(self.problem.superspace.searched)
            options = [path[-1], *self.problem.neighbours(path[-1], position)]
            if new := [option for option in options if option not in state.history]:
                return new
            path.append(max(options, key=state.history.__getitem__))
        return []

    def _is_at_top(self, path: list[SpaceMember]) -> bool:
        round_length = len(self.problem.superspace.searched) + 1
        return not path or (len(path) >= round_length and path[-1] == path[-round_length])


def require_positive(**settings: int) -> None:
    """Check settings of a strategy; a `ConfigError` names those below 1."""
    if faults := [f"{name} = {value}" for name, value in settings.items() if value < 1]:
        raise ConfigError(f"search: {', '.join(faults)}; allowed: 1 or more")
