"""Time engines in turn: each pair of runs sees the same machine, so that ratios hold where times drift."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertc.targets import Phases

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Contestant:
    """One engine with one batch, ready to run."""

    name: str
    run: Callable[[], object]
    """From arrays in the host's memory to arrays in the host's memory."""
    phases: Callable[[], Phases] | None = None
    """The same by the device's clock, where there is a device."""


@dataclass(frozen=True)
class Protocol:
    """How often and how long: trtexec's iterations, duration and warm-up."""

    runs: int = 10
    """Of each engine, at least."""
    duration: float = 3.0
    """Seconds for one shape, at least."""
    warm_up: float = 0.2
    """Seconds of untimed runs of each engine, and at least one run."""
    rest: float = 0.0
    """Seconds before each turn, with an untimed run behind them. On a CPU the threads of an engine spin for a while
    after its run; another engine that runs then is up to half slower."""


@dataclass(frozen=True)
class Times:
    """Of one engine: milliseconds of each run, and what the device says of each."""

    latency: tuple[float, ...]
    phases: tuple[Phases, ...]


def measure(
    contestants: Sequence[Contestant],
    protocol: Protocol,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Progress | None = None,
) -> list[Times]:
    """The times of each contestant: A B, B A, A B, ... until there are enough runs and enough time has gone by.

    `clock` gives seconds, `progress` is told how many runs of each are done, and of how many.
    """
    for contestant in contestants:
        _warm_up(contestant, protocol, clock)
    latency: list[list[float]] = [[] for _ in contestants]
    phases: list[list[Phases]] = [[] for _ in contestants]
    started, done = clock(), 0
    while done < protocol.runs or clock() - started < protocol.duration:
        turns = range(len(contestants)) if done % 2 == 0 else reversed(range(len(contestants)))
        for which in turns:
            contestant = contestants[which]
            if protocol.rest:
                sleep(protocol.rest)
                contestant.run()
            latency[which].append(_milliseconds(contestant.run, clock))
            if contestant.phases is not None:
                phases[which].append(contestant.phases())
        done += 1
        if progress is not None:
            progress(done, max(protocol.runs, done))
    return [Times(tuple(times), tuple(parts)) for times, parts in zip(latency, phases, strict=True)]


def _warm_up(contestant: Contestant, protocol: Protocol, clock: Callable[[], float]) -> None:
    started = clock()
    contestant.run()
    while clock() - started < protocol.warm_up:
        contestant.run()


def _milliseconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) * 1e3
