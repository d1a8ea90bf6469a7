"""The identifier: calls in, tasks out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..types import Call, Match, Slots, Template
from .decisions import Decisions
from .edited import Edited
from .kinds import Kinds
from .merge import AnswerBook, wording
from .miner import Miner, Proposal
from .pool import Pool, pooled
from .refine import Refiner, core, supersedes, widened_template
from .template import Key, Shape, TemplateIndex, fit, key_of, make_template, roles_of, to_match
from .text import join_prompt, prompt_text

if TYPE_CHECKING:
    from .meaning import Found, Meaning

__all__ = ["Identifier", "Learned"]

MIN_WORDING = 4
"""Words two templates must have, all of them equal, to be one task whatever their white space and punctuation."""


Saying = tuple[Key, tuple[str, ...] | None, tuple[object, ...]]


@dataclass(slots=True)
class Learned:
    """What one call taught.

    Attributes:
        match: the call's task, None while it belongs to none.
        created: templates that are new, or new versions of templates of the same task.
        placed: earlier calls that belong to a task now, as (call id, match).
        merged: tasks that turned out to be one, as (id that is gone, id that survives).
        found: freely worded tasks that are new; their templates are in `created` as well.
        parted: the template that proved to serve two jobs; the first of `created` is the new task's then, another one
            the old task's. None if there is none.
    """

    match: Match | None = None
    created: list[Template] = field(default_factory=list)
    placed: list[tuple[str, Match]] = field(default_factory=list)
    merged: list[tuple[str, str]] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    parted: Template | None = None


class Identifier:
    """Finds the recurring tasks in a stream of calls.

    `match` may be called from any thread; `learn`, `adopt`, `forget`, `decide` and what notes belong to one thread.

    Args:
        templates: templates known from before, oldest first.
        min_calls: calls that must share a template before it is a task, ≥ 2.
        max_pool: most calls kept while they belong to no task, ≥ min_calls.
        max_pool_chars: most characters of prompts kept for them.
        max_tasks: tasks beyond which no new one is looked for.

    Attributes:
        meaning: finds and recognises freely worded tasks; None leaves them alone.
    """

    def __init__(
        self,
        templates: Iterable[Template] = (),
        *,
        min_calls: int = 7,
        max_pool: int = 10_000,
        max_pool_chars: int = 64_000_000,
        max_tasks: int = 10_000,
    ) -> None:
        self._decisions = Decisions()
        self._index = TemplateIndex()
        self._refiner = Refiner()
        self._answers = AnswerBook()
        self._kinds = Kinds(min_calls)
        self._edited = Edited(min_calls)
        self._born: dict[str, int] = {}  # each task's place in the order in which they came to be
        self._births = 0
        self._saying: dict[Saying, str] = {}
        self._max_tasks = max_tasks
        self._pool = Pool(max(max_pool, min_calls), max_pool_chars)
        self._miner = Miner(self._pool, min_calls)
        self._min_calls = min_calls
        self.meaning: Meaning | None = None
        self.adopt(templates)

    def match(self, call: Call) -> Match | None:
        """The task and input of a call, None if it fits no known template. Takes microseconds, keeps nothing."""
        found = self._index.find(call)
        if found is not None:
            return to_match(*found)
        return self.meaning.match(call) if self.meaning is not None else None

    def match_anew(self, template: Template, slots: Slots) -> Match | None:
        """The match of a call that was recognised by a template earlier, with what is known now."""
        roles = roles_of(template.literals)
        if roles is None:
            return None
        found = self._index.find_prompt((key_of(template), roles), join_prompt(template.literals, slots))
        return to_match(*found) if found is not None else None

    def templates(self) -> list[Template]:
        """All known templates, oldest first."""
        return list(self._index.by_id.values())

    def template(self, template_id: str) -> Template | None:
        """The template with this id, None if it is not known."""
        return self._index.by_id.get(template_id)

    def adopt(self, templates: Iterable[Template], apart: Collection[str] = ()) -> None:
        """Make templates known that come from elsewhere, oldest first.

        Those known already, or widened since, change nothing. One that is narrower than an older one of its task stands
        beside it.

        Args:
            templates: the templates.
            apart: ids of templates that came to their task by a merge: none is a version of another one.
        """
        older: set[str] = set()
        alone = frozenset(apart)
        for template in templates:
            if self._index.by_id.get(template.id) != template:
                related = [t for t in self._index.of_task(template.task) if alone.isdisjoint((t.id, template.id))]
                if any(supersedes(known, template) and known.id not in older for known in related):
                    continue
                for known in related:
                    if supersedes(template, known):
                        self._drop(known.id)
                self._keep(template)
            older.add(template.id)

    def decide(self, decisions: Decisions) -> None:
        """Respect what the user has decided, from now on."""
        self._decisions = decisions

    def forget(self, task: str) -> None:
        """Drop all templates of a task; its later calls are unknown again."""
        for template in self._index.of_task(task):
            self._drop(template.id)
        self._answers.forget(task)
        self._born.pop(task, None)

    def learn(self, call: Call) -> Learned:
        """Take in a call that `match` did not place, and see whether it makes a task with earlier ones.

        Returns:
            What is new. All of it is in force already: `match` knows it when this returns.
        """
        found = self._index.find(call)
        if found is not None:
            return Learned(match=to_match(*found))
        key = key_of(call)
        roles = tuple([role for role, _ in call.messages])
        prompt = prompt_text(call.messages)
        learned = Learned()
        declared = self._decisions.place(key, prompt)
        if declared is not None:
            learned.created.append(declared[0])
            self._keep(declared[0])
            learned.match = declared[1]
            return learned
        template = self._widen((key, roles), prompt, learned)
        if template is not None:
            learned.match = _matched(template, prompt)
            return learned
        number = self._pool.add(pooled(call.id, key, roles, prompt))
        if number not in self._pool.calls or self._index.tasks() >= self._max_tasks:
            return learned
        proposal = self._miner.propose(number, trusted=self._decisions.trusts(key))
        if proposal is not None:
            self._create((key, roles), proposal, learned)
        elif self._decisions.trusts(key):
            self._catch_all(key, learned)
        learned.placed = [(call_id, match) for call_id, match in learned.placed if call_id != call.id]
        learned.match = self.match(call)
        return learned

    def note_unplaced(self, call: Call, answer: str) -> Learned:
        """Take in what the teacher answered to a call that `learn` did not place: it may be worded freely.

        Returns:
            What is new, and in force already.
        """
        learned = Learned()
        if self.meaning is None:
            return learned
        learned.found = self.meaning.note(call, answer)
        for found in learned.found:
            self._keep(found.template)
            learned.created.append(found.template)
            learned.placed += found.placed
        places = dict(learned.placed)
        for number in [n for n, waiting in self._pool.calls.items() if waiting.id in places] if places else ():
            self._pool.remove(number)
        learned.match = places.get(call.id)
        return learned

    def _widen(self, shape: Shape, prompt: str, learned: Learned) -> Template | None:
        """The known template that fits the prompt after a few of its words became input, if there is one."""
        template_id = self._refiner.find(shape, prompt)
        old = self._index.by_id.get(template_id) if template_id is not None else None
        new = widened_template(old, prompt) if old is not None and not self._decisions.is_declared(old) else None
        if old is None or new is None:
            return None
        self._drop(old.id)
        self._keep(new)
        learned.created = [template for template in learned.created if template.id != old.id]
        learned.created.append(new)
        return new

    def _create(self, shape: Shape, proposal: Proposal, learned: Learned) -> None:
        """Make a template of a proposal, and place all calls of the pool that belong to it."""
        template = self._found(shape[0], proposal.literals, learned)
        hard = core(template.literals) or template.literals
        # The quickest test first: this may go through the whole pool.
        candidates = self._pool.starting(hard[0])
        here = [(number, call) for number, call in candidates.items() if call.prompt.startswith(hard[0])]
        here = [(n, call) for n, call in here if (call.key, call.roles) == shape and fit(hard, call.prompt) is not None]
        for _, call in here:
            if fit(template.literals, call.prompt) is None and self._refiner.find(shape, call.prompt) == template.id:
                template = self._widen(shape, call.prompt, learned) or template
        for number, call in here:
            match = _matched(template, call.prompt)
            if match is not None:
                learned.placed.append((call.id, match))
                self._pool.remove(number)

    def _found(self, key: Key, literals: tuple[str, ...], learned: Learned) -> Template:
        """A new template, of the task that says the same words or was declared for its step, else of one of its own."""
        task = self._saying.get(_saying(key, literals)) or self._decisions.step_task(key)
        template = make_template(key, literals, task)
        self._keep(template)
        learned.created.append(template)
        return template

    def note_call(self, match: Match) -> Learned:
        """Take in a call that `match` placed.

        Text that was added to a prompt beside a slot looks like input. Once enough calls show that it is none, the
        edited prompt is a template like any other, and as unknown to a release.

        Args:
            match: what `match` said of it.

        Returns:
            The edited template in `created`; mostly nothing.
        """
        learned = Learned()
        template = self._index.by_id.get(match.template)
        if template is None or roles_of(template.literals) is None or len(match.slots) != len(template.literals) - 1:
            return learned
        if self._decisions.is_declared(template) or (self.meaning is not None and self.meaning.knows(match.task)):
            return learned
        literals = self._edited.note(template.id, template.literals, match.slots)
        if literals is None or self._index.tasks() >= self._max_tasks:
            return learned
        now = self.match_anew(template, match.slots)  # the call may have waited since the edit was found
        prompt = join_prompt(template.literals, match.slots)
        if now is not None and now.template == template.id and fit(literals, prompt) is not None:
            self._found(key_of(template), literals, learned)
        return learned

    def note_answer(self, task: str, answer: str, slots: Slots = (), template: str | None = None) -> Learned:
        """Take in what the teacher answered to a call of a task.

        Tasks that prove to be one job become one, and a template that proves to serve two becomes two tasks.

        Args:
            task: the call's task.
            answer: the teacher's answer.
            slots: the call's input.
            template: id of the call's template; without it no template is parted.

        Returns:
            `merged`, and in `created` the templates under their new task; mostly nothing.
        """
        learned = Learned()
        if self.meaning is not None and self.meaning.knows(task):
            return learned  # what its wordings have in common was judged already
        mine = next(iter(self._index.of_task(task)), None)
        if mine is None:
            return learned
        known = self._index.by_id.get(template) if template is not None else None
        if known is not None and self._part(known, answer, slots, learned):
            return learned
        for other in self._answers.note(task, key_of(mine), answer, slots):
            theirs = next(iter(self._index.of_task(other)), None)
            if theirs is None or not self._decisions.held.isdisjoint((task, other)):
                continue
            if self._answers.same_job(task, other, mine.literals, theirs.literals):
                gone, survivor = (other, task) if self._born[task] < self._born[other] else (task, other)
                self._merge(gone, survivor, learned)
                break
        return learned

    def _part(self, template: Template, answer: str, slots: Slots, learned: Learned) -> bool:
        """Give parts of a template's calls templates and tasks of their own if their answers are of two kinds."""
        said_so = template.task in self._decisions.held or self._decisions.trusts(key_of(template))
        if said_so or len(slots) != len(template.literals) - 1:
            return False
        parts = self._kinds.note(template.id, template.literals, answer, slots)
        tasks = (None, template.task)
        created = [make_template(key_of(template), each, task) for each, task in zip(parts, tasks, strict=False)]
        created = [special for special in created if special.id not in self._index.by_id]
        if not created:
            return False
        for special in created:
            self._keep(special)
        self._kinds.forget(template.id)
        self._answers.forget(template.task)
        learned.created += created
        learned.parted = template
        return True

    def _merge(self, gone: str, survivor: str, learned: Learned) -> None:
        for template in self._index.of_task(gone):
            renamed = make_template(key_of(template), template.literals, survivor)
            self._drop(template.id)
            self._keep(renamed)
            learned.created.append(renamed)
        self.forget(gone)
        learned.merged.append((gone, survivor))

    def _catch_all(self, key: Key, learned: Learned) -> None:
        """Take all calls of a declared step as one task with the whole prompt as input."""
        here = [(number, call) for number, call in self._pool.calls.items() if call.key == key]
        if len(here) < self._min_calls:
            return
        template = make_template(key, ("", ""), self._decisions.step_task(key))
        self._keep(template)
        learned.created.append(template)
        for number, call in here:
            learned.placed.append((call.id, to_match(template, (call.prompt,))))
            self._pool.remove(number)

    def _keep(self, template: Template) -> None:
        if template.task not in self._born:
            self._born[template.task] = self._births
            self._births += 1
        self._drop(template.id)
        self._index.add(template)
        self._refiner.add(template)
        self._miner.learn_scaffold(template.literals)
        self._saying.setdefault(_saying(key_of(template), template.literals), template.task)

    def _drop(self, template_id: str) -> None:
        template = self._index.by_id.get(template_id)
        if template is None:
            return
        self._index.remove(template_id)
        self._refiner.remove(template_id)
        self._kinds.forget(template_id)
        self._edited.forget(template_id)
        self._miner.forget_scaffold(template.literals)
        self._saying.pop(_saying(key_of(template), template.literals), None)


def _saying(key: Key, literals: tuple[str, ...]) -> Saying:
    """What a template says, whatever its white space and punctuation; if that is little, all of it counts."""
    said = wording(literals)
    return (key, roles_of(literals), said if sum(map(len, said)) >= MIN_WORDING else literals)


def _matched(template: Template, prompt: str) -> Match | None:
    slots = fit(template.literals, prompt)
    return to_match(template, slots) if slots is not None else None
