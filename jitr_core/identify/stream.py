"""Identification of a whole log, call by call as it would have been live, and again with all that was learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..types import Call, Match
from .identifier import Identifier

__all__ = ["Assignment", "identify_stream"]


@dataclass(slots=True)
class Assignment:
    """Where one call of a log belongs.

    Attributes:
        id: the call's id.
        task: its task as it was known when the call came, named as at the end of the log; None if there was none.
        final_task: its task after the whole log; None = one-off.
    """

    id: str
    task: str | None
    final_task: str | None


def identify_stream(
    calls: Iterable[Call], identifier: Identifier | None = None, *, answers: Iterable[str] | None = None
) -> Iterator[Assignment]:
    """Assign every call of a log to a task.

    The calls are gone through twice: first as a stream, learning; then each call is looked up in what was learnt.

    Args:
        calls: the log; it is read once and kept in memory.
        identifier: what to start from, changed by this; None starts from nothing.
        answers: the teacher's answer to each call, in the same order; with them reworded tasks can be merged.

    Yields:
        One assignment a call, in order, once the whole log has been read.
    """
    identifier = identifier or Identifier()
    kept: list[Call] = []
    online: list[str | None] = []
    place: dict[str, str] = {}
    survivor: dict[str, str] = {}
    waiting: dict[str, str] = {}
    told = iter(answers) if answers is not None else None
    for call in calls:
        kept.append(call)
        answer = next(told, None) if told is not None else None
        match = identifier.match(call)
        placed: list[tuple[str, Match]] = []
        if match is None:
            learned = identifier.learn(call)
            match, placed = learned.match, learned.placed
            survivor.update(learned.merged)
        else:
            identifier.note_call(match)
        place.update((call_id, earlier.task) for call_id, earlier in placed)
        if match is None and answer is not None:
            learned = identifier.note_unplaced(call, answer)
            match, placed = learned.match, learned.placed
            place.update((call_id, earlier.task) for call_id, earlier in placed)
        online.append(match.task if match else None)
        if answer is None:
            continue
        waiting[call.id] = answer
        for call_id, known in [*placed, *([(call.id, match)] if match else [])]:
            earlier_answer = waiting.pop(call_id, None)
            if earlier_answer is not None:
                current = _through(survivor, known.task) or known.task
                noted = identifier.note_answer(current, earlier_answer, known.slots, known.template)
                survivor.update(noted.merged)
    for call, task in zip(kept, online, strict=True):
        match = identifier.match(call)
        final = match.task if match else task or place.get(call.id)
        yield Assignment(call.id, _through(survivor, task), _through(survivor, final))


def _through(survivor: dict[str, str], task: str | None) -> str | None:
    """The task's name after all merges."""
    while task in survivor:
        task = survivor[task]
    return task
