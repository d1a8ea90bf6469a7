"""The process that trains and runs text generators: `python -m jitr_core.students.generator_child`.

Only here are torch, transformers and peft loaded. Requests come as lines of JSON on the standard input, each answered
by one line; it ends when the input ends. Many adapters share one base model in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base_models.sources import public_name
from ..errors import ArtifactError, JITRError, TrainingError
from ..types import Slots

__all__ = ["main"]

_MOST_BASES, _MOST_ADAPTERS = 4, 64  # kept in memory, the latest used
_MOST_TOKENS = 512  # of an answer
_LONGER = 1.25  # times the longest answer seen, and a few more tokens, may be generated
_IGNORED = -100  # label of tokens that are not learnt
_PATIENCE = 3  # looks at the held-back loss without a gain before training ends
_LOOKS = 8  # how often that is looked at
_DESCRIBING = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "vocab.txt"),
)  # files of a base model beside its weights
_ALPHA = 32  # of LoRA, whatever the rank
Tell = Callable[[float], None]
_Row = tuple[list[int], list[int]]


@dataclass
class _Base:
    """A base model in memory, with the adapters on it."""

    tokenizer: Any
    model: Any
    seq2seq: bool
    hash: str
    device: str
    adapters: OrderedDict[str, str] = field(default_factory=OrderedDict)

    @property
    def most_tokens(self) -> int:
        """Tokens the model can hold; an encoder-decoder's limit is that of its input."""
        config = self.model.config
        limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return min([n for n in limits if isinstance(n, int) and n > 0] or [1 << 20], default=1 << 20)

    def prompt(self, slots: Sequence[str]) -> list[int]:
        """Tokens that ask for the answer to an input."""
        text = _plain("\n".join(slots))
        if self.seq2seq:
            return list(self.tokenizer(text).input_ids)
        if self.tokenizer.chat_template:
            asked = [{"role": "user", "content": text}]
            written = self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
            return list(self.tokenizer(written, add_special_tokens=False).input_ids)
        return list(self.tokenizer(f"{text}\n\n").input_ids)

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer, its end included."""
        return [*self.tokenizer(_plain(text.strip()), add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]


def _plain(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


class _Child:
    """Answers requests one after the other."""

    def __init__(self) -> None:
        self._bases: OrderedDict[str, _Base] = OrderedDict()

    def train(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Train an adapter and write it; see `_train`. The base is read anew, as training wraps it."""
        base = _load_base(request["base"])
        pairs = json.loads(Path(request["pairs"]).read_text(encoding="utf-8"))
        return _train(base, pairs["learn"], pairs["watch"], request["recipe"], Path(request["out"]), tell)

    def load(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Have an adapter in memory."""
        self._adapted(request)
        return {}

    def answer(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Answer one input."""
        base = self._adapted(request)
        return _generate(base, request["slots"], int(request["max_tokens"]))

    def _adapted(self, request: dict[str, Any]) -> _Base:
        """The base with the wanted adapter in force, read if it is not in memory."""
        name, folder = str(request["base"]), str(request["adapter"])
        if name not in self._bases:
            self._bases[name] = _load_base(name)
            while len(self._bases) > _MOST_BASES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(name)
        base = self._bases[name]
        if base.hash != request["hash"]:
            raise ArtifactError(f"the base model {name} is not the one it was trained on.", hint="Train it again.")
        if base.device != request["device"]:
            raise ArtifactError(f"it was certified on {request['device']}, here is {base.device}.", hint="Train again.")
        if folder not in base.adapters:
            self._add_adapter(base, folder)
        base.adapters.move_to_end(folder)
        base.model.set_adapter(base.adapters[folder])
        return base

    def _add_adapter(self, base: _Base, folder: str) -> None:
        from peft import PeftModel

        name = f"a{hashlib.sha256(folder.encode()).hexdigest()[:16]}"
        if base.adapters:
            base.model.load_adapter(folder, adapter_name=name)
        else:
            base.model = PeftModel.from_pretrained(base.model, folder, adapter_name=name)
        base.model.eval()
        base.adapters[folder] = name
        while len(base.adapters) > _MOST_ADAPTERS:
            base.model.delete_adapter(base.adapters.popitem(last=False)[1])


def _load_base(name: str) -> _Base:
    """A base model from a folder, or from the hub's cache on this disk; nothing is downloaded and no code is run."""
    import torch
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        path = name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise TrainingError(
            f"the base model {name} is not on this machine.", hint=f"Fetch it with: hf download {name}"
        ) from error
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        cuda = torch.cuda.is_available()
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = loader.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(f"the base model {name} cannot be read: {error}") from error
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"the base model {name} has no token that ends an answer.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.name_or_path = public_name(name, Path(name).name)  # what peft notes as the adapter's base
    device = "cuda" if cuda else "cpu"
    return _Base(tokenizer, model.to(device).eval(), bool(config.is_encoder_decoder), _hash(Path(path)), device)


def _hash(folder: Path) -> str:
    """Hash of everything a base model's answers depend on: settings, tokens and weights."""
    state = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".model", ".jinja") or file.name in _DESCRIBING:
            state.update(f"\n{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    state.update(block)
    return state.hexdigest()


def _train(
    base: _Base,
    learn: list[tuple[Slots, str]],
    watch: list[tuple[Slots, str]],
    recipe: dict[str, Any],
    out: Path,
    tell: Tell,
) -> dict[str, Any]:
    """Train a LoRA adapter on inputs and answers, and write it as peft does.

    Args:
        base: what it is trained on.
        learn: what is learnt.
        watch: what tells when to stop: the weights of its least loss are kept.
        recipe: `rank`, `batch`, `epochs`, `steps` (at most) and `seed`.
        out: the folder.
        tell: told the share done.

    Returns:
        `hash` and `device` of the base, `max_tokens` of an answer, `steps` made, `loss` of what was watched.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    torch.manual_seed(recipe["seed"])
    longest = max(len(base.answer(answer)) for _, answer in (*learn, *watch))
    max_tokens = min(int(_LONGER * longest) + 4, _MOST_TOKENS)
    rows, watched = (_rows(base, pairs, max_tokens) for pairs in (learn, watch))
    if not rows or not watched:
        raise TrainingError("the inputs or answers are longer than the base model can take.")
    kind = "SEQ_2_SEQ_LM" if base.seq2seq else "CAUSAL_LM"
    settings = LoraConfig(r=int(recipe["rank"]), lora_alpha=_ALPHA, target_modules="all-linear", task_type=kind)
    model = get_peft_model(base.model, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=_rate(base.model.config), weight_decay=0.0)
    batch = int(recipe["batch"])
    steps = max(1, min(-(-len(rows) // batch) * int(recipe["epochs"]), int(recipe["steps"])))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min((i + 1) / (0.06 * steps + 1), 1 - i / steps))
    order, left, made = _order(len(rows), steps * batch, recipe["seed"]), _PATIENCE, 0
    best: tuple[float, dict[str, Any]] = (float("inf"), {})
    for step in range(steps):
        model.train()
        loss = model(**_collate(base, [rows[i] for i in order[step * batch : (step + 1) * batch]])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        made += 1
        tell((step + 1) / steps)
        if (step + 1) % max(steps // _LOOKS, 1) == 0 or step + 1 == steps:
            now = _loss(base, model, watched, batch)
            if now < best[0]:
                state = get_peft_model_state_dict(model)
                best, left = (now, {k: v.detach().clone() for k, v in state.items()}), _PATIENCE
            elif (left := left - 1) <= 0:
                break
    if best[1]:
        set_peft_model_state_dict(model, best[1])
    model.save_pretrained(out, safe_serialization=True)
    (out / "README.md").unlink(missing_ok=True)  # peft's is an empty form
    return {"hash": base.hash, "device": base.device, "max_tokens": max_tokens, "steps": made, "loss": best[0]}


def _rate(config: Any) -> float:
    """Learning rate of an adapter: 5e-4 at a width of 2,000, more on narrower models.

    Schulman et al., "LoRA Without Regret" (2025), with the exponent they found for Llama.
    """
    width = int(getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or 2000)
    return float(min(5e-4 * (2000 / width) ** 0.781, 1e-2))


def _rows(base: _Base, pairs: list[tuple[Slots, str]], max_tokens: int) -> list[_Row]:
    """Tokens of inputs and of their answers; those that do not fit into the model are left out."""
    found = [(base.prompt(slots), base.answer(answer)) for slots, answer in pairs]
    return [row for row in found if len(row[1]) <= max_tokens and _fits(base, row[0], max_tokens)]


def _fits(base: _Base, prompt: list[int], max_tokens: int) -> bool:
    """Whether an input and the longest answer fit into the model; an encoder-decoder takes them apart."""
    return 0 < len(prompt) <= base.most_tokens - (0 if base.seq2seq else max_tokens)


def _order(rows: int, wanted: int, seed: int) -> list[int]:
    """Rows to learn from, one epoch after the other, each shuffled."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    found: list[int] = []
    while len(found) < wanted:
        found += torch.randperm(rows, generator=generator).tolist()
    return found[:wanted]


def _collate(base: _Base, rows: list[_Row]) -> dict[str, Any]:
    """A batch, padded on the right; only answers are learnt."""
    import torch

    inputs = [prompt if base.seq2seq else prompt + said for prompt, said in rows]
    labels = [said if base.seq2seq else [_IGNORED] * len(prompt) + said for prompt, said in rows]
    pad = base.tokenizer.pad_token_id

    def padded(lists: list[list[int]], value: int) -> Any:
        width = max(map(len, lists))
        return torch.tensor([each + [value] * (width - len(each)) for each in lists], device=base.device)

    mask = padded([[1] * len(each) for each in inputs], 0)
    return {"input_ids": padded(inputs, pad), "attention_mask": mask, "labels": padded(labels, _IGNORED)}


def _loss(base: _Base, model: Any, rows: list[_Row], batch: int) -> float:
    """Mean loss a token of what is watched."""
    import torch

    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            count = sum(len(said) for _, said in some)
            total += float(model(**_collate(base, some)).loss) * count
            tokens += count
    return total / tokens


def _generate(base: _Base, slots: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """The most likely answer, token by token, and how sure the model was.

    One input at a time: padding changes what is added up in which order, and what is certified must be what serves.

    Returns:
        `text`; `ended`: whether it came to an end; `logp`: log-probability of each token, the end included.
    """
    import torch

    prompt = base.prompt(slots)
    if not _fits(base, prompt, max_tokens):
        return {"text": "", "ended": False, "logp": []}
    ids = torch.tensor([prompt], device=base.device)
    end = base.tokenizer.eos_token_id
    with torch.inference_mode():
        out = base.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_greedy(base, max_tokens),
            return_dict_in_generate=True,
            output_logits=True,
        )
    said = out.sequences[0, (1 if base.seq2seq else len(prompt)) :].tolist()
    said = said[: said.index(end) + 1] if end in said else said
    logp = [
        float(torch.log_softmax(step[0].float(), dim=-1)[token]) for step, token in zip(out.logits, said, strict=False)
    ]
    text = base.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return {"text": text.strip(), "ended": bool(said) and said[-1] == end, "logp": logp}


def _greedy(base: _Base, max_tokens: int) -> Any:
    """Settings of greedy generation, whatever the base model's own say."""
    from transformers import GenerationConfig

    own = base.model.generation_config
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_tokens,
        eos_token_id=base.tokenizer.eos_token_id,
        pad_token_id=base.tokenizer.pad_token_id,
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
    )


def main() -> int:
    """Answer requests until whoever asks is gone; 0 if that cannot be done here."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    try:
        import peft  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        answers.write(json.dumps({"error": f'{error}; generators need: pip install "jitr[train]"'}) + "\n")
        return 0
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    child = _Child()
    answers.write(json.dumps({"ready": True}) + "\n")
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            work = {"train": child.train, "load": child.load, "answer": child.answer}[request["do"]]
            reply = work(request, lambda share: print(json.dumps({"progress": share}), file=answers))
        except JITRError as error:
            reply = {"error": str(error)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")


def _listen(requests: queue.SimpleQueue[str]) -> None:
    """Take in requests, and end at once when whoever asks is gone: nobody would wait for a training to end."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
