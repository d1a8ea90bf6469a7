"""Text completions in JITR's records, and back; and a cache that takes no answer of a replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.outputs import Generation, LLMResult

from jitr_core.types import Answer, Call, Decision

from ._translate import answer_with, origin_of

__all__ = ["Guarded", "answer_of_completion", "answer_of_pieces", "billed", "merged", "replacement_generation"]

_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_USAGE = ("token_usage", "usage_metadata", "usage")
_INPUT = ("prompt_tokens", "input_tokens", "prompt_eval_count")
_OUTPUT = ("completion_tokens", "output_tokens", "eval_count")


def answer_of_completion(
    completed: tuple[Sequence[Generation], Mapping[str, Any] | None], call: Call, latency_s: float
) -> Answer | None:
    """The teacher's answer; None if it is not one text, or a replacement's by another engine.

    Args:
        completed: the generations for one prompt, and what was told beside them of all prompts or None: tokens that are
            billed there count for this prompt.
        call: the request; it tells the teacher's name where the result does not.
        latency_s: seconds it took.
    """
    generations, told = completed
    if len(generations) != 1:
        return None
    info = generations[0].generation_info or {}
    return _answer(generations[0].text, [info, told or {}], call, latency_s)


def answer_of_pieces(pieces: Sequence[Generation], call: Call, latency_s: float) -> Answer | None:
    """The answer of a stream that came to its end; None if nothing came, or as in `answer_of_completion`."""
    infos = [piece.generation_info or {} for piece in pieces]
    return _answer("".join([piece.text for piece in pieces]), infos, call, latency_s) if pieces else None


def _answer(text: str, told: Sequence[Mapping[str, Any]], call: Call, latency_s: float) -> Answer | None:
    if any("jitr" in each for each in told):
        return None
    usage: Mapping[str, Any] = next((found for each in told if (found := billed(each))), {})
    model = next((str(name) for each in told if (name := each.get("model_name") or each.get("model"))), call.model)
    return answer_with(text, model, [usage], latency_s)


def billed(told: Mapping[str, Any]) -> dict[str, int]:
    """Input and output tokens, in LangChain's words, of what is told beside a text; empty if nothing is."""
    places = [told, *[place for name in _USAGE if isinstance(place := told.get(name), Mapping)]]
    for place in places:
        given, taken = (next((place[n] for n in names if n in place), None) for names in (_INPUT, _OUTPUT))
        if isinstance(given, int) and isinstance(taken, int):
            return {"input_tokens": given, "output_tokens": taken}
    return {}


def replacement_generation(decision: Decision) -> Generation:
    """The replacement's answer as the generation the app gets.

    Raises:
        ValueError: the decision has no answer.
    """
    if decision.answer is None:
        raise ValueError("a replacement decided the call, but gave no answer")
    told = {"finish_reason": "stop", "model_name": f"jitr:{decision.release}", "jitr": origin_of(decision)}
    return Generation(text=decision.answer, generation_info=told)


def merged(answers: Sequence[Generation | None], result: LLMResult | None) -> LLMResult:
    """What an app gets that asked several prompts at once.

    Args:
        answers: the replacement's answer to each prompt, None where the teacher was asked.
        result: what the teacher answered, None if it was not asked. Tokens are told of all prompts together.
    """
    if result is None:
        model = next(each.generation_info["model_name"] for each in answers if each and each.generation_info)
        told: dict[str, Any] | None = {"token_usage": dict(_NO_TOKENS), "model_name": model}
        taught: list[Any] = []
    else:
        told, taught = result.llm_output, list(result.generations)
    waiting = iter(taught)
    return LLMResult(generations=[next(waiting) if each is None else [each] for each in answers], llm_output=told)


class Guarded(BaseCache):
    """A cache in which no answer of a replacement passes for one of the teacher's: such are not stored.

    LangChain stores what a text completion model gives under the model's own key.
    """

    def __init__(self, cache: BaseCache) -> None:
        """Guards a cache.

        Args:
            cache: where the teacher's answers are.
        """
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> Any:
        """As the cache's."""
        return self._cache.lookup(prompt, llm_string)

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        """As the cache's."""
        return await self._cache.alookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """As the cache's, for the teacher's answers."""
        if not _replaced(return_val):
            self._cache.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """As the cache's, for the teacher's answers."""
        if not _replaced(return_val):
            await self._cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """As the cache's."""
        self._cache.clear(**kwargs)


def _replaced(generations: Sequence[Generation]) -> bool:
    return any("jitr" in (each.generation_info or {}) for each in generations)
