"""Tune an encoder with LoRA: `python -m jitr_core.students.lora FOLDER < JOB`, a process of its own, with torch.

The job is a line of JSON, see `jitr_core.students.tuning`. FOLDER receives the tuned encoder: int8 network, tokenizer,
linear layer, and the adapter as peft writes it. It ends when its input ends, and then leaves nothing behind.
The lowest third of the network stays as it is: what it makes of an input is computed once, a third of the work less.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base_models.export import pooled_blocks, write_network
from ..base_models.prepare import write_tokenizer
from ..errors import JITRError, MissingExtraError, TrainingError
from .tuned import joined, shortened
from .tuning import Settings

__all__ = ["main", "run_job"]

_SCALE = 10.0  # of an embedding of length 1 before the linear layer, so that its weights may stay small
_WINDOW = 50  # batches whose inputs are sorted by length among themselves, so that little is padded
_WARM_UP = 0.06  # share of the steps over which the rate of learning rises
_CLIP = 1.0
_PREDICTED = 32  # inputs that pass through the frozen layers at once
_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")  # networks whose layers can be run one by one


def run_job(job: dict[str, Any], folder: Path, tell: Callable[[float], None]) -> None:
    """Tune an encoder.

    Args:
        job: inputs, labels, the rows to learn from, settings, base model and seed.
        folder: where to write.
        tell: told the share done, in [0, 1].

    Raises:
        MissingExtraError: torch, transformers, peft or onnx is not installed.
        TrainingError: the base model cannot be read.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import peft  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("train", "Tuning an encoder") from error
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuning = _Tuning(job)
        tuning.run(np.array(job["rows"], np.intp), tell)
        tuning.write(folder, job["name"], job["published"])


class _Tuning:
    """One tuning of one encoder."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        self.settings, self.seed = Settings(**job["settings"]), int(job["seed"])
        self.paced_by = int(job["paced_by"])
        torch.manual_seed(self.seed)
        self.device, self.half = _device()
        settings = self.settings
        self.tokenizer, self.model = _load(job["source"], settings)
        self.separator = f" {self.tokenizer.sep_token} " if self.tokenizer.sep_token else " "
        ids = self.tokenizer([joined(texts, self.separator) for texts in job["texts"]])["input_ids"]
        self.ids = [shortened(tokens, settings.max_tokens) for tokens in ids]
        self.labels, self.classes = np.array(job["labels"]), int(job["classes"])
        layers = getattr(getattr(self.model, "encoder", None), "layer", None)
        stepwise = layers is not None and self.model.config.model_type in _TYPES
        self.below = round(len(layers) * settings.frozen) if stepwise and settings.pretrained else 0  # type: ignore[arg-type]
        self._adapt()

    def _adapt(self) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        linear = [name for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear)]
        frozen = tuple(f"encoder.layer.{i}." for i in range(self.below))
        s = self.settings
        config = LoraConfig(
            r=s.rank, lora_alpha=s.alpha, target_modules=[name for name in linear if not name.startswith(frozen)]
        )
        if s.pretrained:
            self.adapted = get_peft_model(self.model, config)
        else:  # nothing is known yet that could be kept: all weights learn
            self.adapted = self.model
        self.adapted.to(self.device).train()
        layers = self.model.encoder.layer[self.below :] if self.below else [self.model]
        for module in (m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Dropout)):
            module.p = s.dropout
        self.head = torch.nn.Linear(int(self.model.config.hidden_size), self.classes).to(self.device)

    def run(self, rows: NDArray[np.intp], tell: Callable[[float], None]) -> None:
        """Tune on some of the inputs."""
        import torch

        s = self.settings
        self._start_head(rows)
        states = self._lower(rows) if self.below else {}
        adapter = [p for p in self.adapted.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            [{"params": adapter, "lr": s.rate}, {"params": self.head.parameters(), "lr": s.head_rate}],
            weight_decay=s.decay,
        )
        steps = s.epochs * math.ceil(min(len(rows), self.paced_by) / s.batch)
        warm = max(1, round(_WARM_UP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        rng = np.random.default_rng(self.seed)
        lengths = [len(self.ids[i]) for i in rows]
        passes = (_batches(rows, lengths, s.batch, rng) for _ in range(s.epochs))
        for step, batch in enumerate(islice(chain.from_iterable(passes), steps), start=1):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.head(self._embed(batch, states) * _SCALE)
            wanted = torch.as_tensor(self.labels[batch], device=self.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), wanted)
            if not bool(torch.isfinite(loss)):
                raise TrainingError("tuning the encoder diverged.", hint="The teacher serves on.")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapter, _CLIP)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            if step % 10 == 0:
                tell(step / steps)

    def _start_head(self, rows: NDArray[np.intp]) -> None:
        """Begin with the frequency of each class: rare ones must not cost the first steps."""
        import torch

        counts = np.bincount(self.labels[rows], minlength=self.classes) + 1.0
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.as_tensor(np.log(counts / counts.sum())))

    def _lower(self, rows: NDArray[np.intp]) -> dict[int, Any]:
        """What the frozen layers make of the inputs, by row, each of shape (tokens, w)."""
        import torch

        found: dict[int, Any] = {}
        self.model.eval()
        order = sorted(rows.tolist(), key=lambda i: len(self.ids[i]))
        with torch.no_grad():
            for start in range(0, len(order), _PREDICTED):
                some = order[start : start + _PREDICTED]
                ids, mask = self._padded(some)
                states = self.model.embeddings(input_ids=ids)
                for layer in self.model.encoder.layer[: self.below]:
                    states = _first(layer(states, _bias(mask)))
                for i, state in zip(some, states, strict=True):
                    found[i] = state[: len(self.ids[i])].to(torch.float16)  # half the memory; the noise is nothing
        self.model.train()
        return found

    def _embed(self, batch: Sequence[int], states: dict[int, Any]) -> Any:
        """Mean-pooled embeddings of length 1, shape (b, w)."""
        import torch

        ids, mask = self._padded(batch)
        if self.below:
            hidden = torch.zeros((*ids.shape, int(self.model.config.hidden_size)), device=self.device)
            for row, i in enumerate(batch):
                hidden[row, : len(self.ids[i])] = states[i]
            for layer in self.model.encoder.layer[self.below :]:
                hidden = _first(layer(hidden, _bias(mask)))
        else:
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)

    def _padded(self, rows: Sequence[int]) -> tuple[Any, Any]:
        import torch

        longest = max(len(self.ids[i]) for i in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for row, i in enumerate(rows):
            ids[row, : len(self.ids[i])] = torch.as_tensor(self.ids[i])
            mask[row, : len(self.ids[i])] = 1
        return ids.to(self.device), mask.to(self.device)

    def write(self, folder: Path, name: str, published: str) -> None:
        """Write adapter, int8 network, tokenizer and linear layer.

        Args:
            folder: where to.
            name: of the base model.
            published: what the base model is called elsewhere: peft and those who serve its adapters look for that.
        """
        from safetensors.numpy import save_file

        adapted, apart, marks = self.adapted.cpu().eval(), {}, {}
        if self.settings.pretrained:
            adapted.peft_config["default"].base_model_name_or_path = published
            with tempfile.TemporaryDirectory() as scratch:
                adapted.save_pretrained(scratch)
                for file in ("adapter_config.json", "adapter_model.safetensors"):
                    (folder / file).write_bytes((Path(scratch) / file).read_bytes())
            apart = {key: p.detach().numpy().copy() for key, p in adapted.named_parameters() if p.requires_grad}
            marks = _marked(adapted)
            adapted = adapted.base_model.model
        layers, blocks = pooled_blocks(adapted.config)
        turned = write_network(folder / "model.onnx", adapted, layers, marks)
        write_tokenizer(folder, self.tokenizer)
        head = self.head.cpu()
        save_file(
            {
                "weight": np.ascontiguousarray(head.weight.detach().numpy().T * np.float32(_SCALE)),
                "bias": head.bias.detach().numpy().copy(),
                **{
                    f"adapter.{key}": np.ascontiguousarray(apart[key].T if turn else apart[key])
                    for key, turn in turned.items()
                },
            },
            folder / "head.safetensors",
        )
        settings = {
            "name": name,
            "separator": self.separator,
            "max_tokens": self.settings.max_tokens,
            "blocks": blocks,
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def _load(source: str, settings: Settings) -> tuple[Any, Any]:
    """Tokenizer and network; attention is spelt out, which on a CPU trains faster than the fused kind."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    local = Path(source).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        if settings.pretrained:
            model = AutoModel.from_pretrained(
                source, local_files_only=local, attn_implementation="eager", use_safetensors=True
            )
        else:
            config = AutoConfig.from_pretrained(source, local_files_only=local)
            model = AutoModel.from_config(config, attn_implementation="eager")
    except Exception as error:  # what transformers raises on damaged files is of many kinds
        raise TrainingError(f"the base model {source} cannot be read: {error}.") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # not used by mean pooling
    return tokenizer, model


def _device() -> tuple[Any, bool]:
    """Where to compute, and whether in bf16: only where the device does; on a CPU it may be many times slower."""
    import torch

    gpu = torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu"), gpu and torch.cuda.is_bf16_supported(including_emulation=False)


def _marked(adapted: Any) -> dict[str, NDArray[np.float32]]:
    """Give an adapter's weights values that tell them apart, the same ones for every task, and return them."""
    import torch

    source, marks = torch.Generator().manual_seed(0), {}
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.normal_(generator=source)
                marks[key] = weight.numpy().copy()
    return marks


def _batches(
    rows: NDArray[np.intp], lengths: Sequence[int], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yields all inputs in batches of about equal lengths, the batches in random order."""
    order = rng.permutation(len(rows))
    found = []
    for start in range(0, len(order), size * _WINDOW):
        window = sorted(order[start : start + size * _WINDOW].tolist(), key=lambda i: lengths[i])
        found += [window[a : a + size] for a in range(0, len(window), size)]
    for i in rng.permutation(len(found)):
        yield [int(rows[j]) for j in found[i]]


def _bias(mask: Any) -> Any:
    """What is added to the attention's scores, shape (b, 1, 1, tokens); None where nothing is padded."""
    return None if bool(mask.all()) else (1.0 - mask[:, None, None, :].float()) * -1e9


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def main(arguments: list[str] | None = None) -> int:
    """Run a job; 0 if it is done, else 1 with the reason on stderr. Shares done go to stdout, a line each."""
    folder = Path((arguments or sys.argv[1:])[0])

    def tell(share: float) -> None:
        sys.stdout.write(f"{share:.4f}\n")
        sys.stdout.flush()

    try:
        line = sys.stdin.readline()
        if not line.endswith("\n"):  # whoever asked is gone before it had said all
            _leave_nothing(folder)
            return 1
        job = json.loads(line)
        threading.Thread(target=_end_with_input, args=(folder,), daemon=True).start()
        run_job(job, folder, tell)
    except (JITRError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (MemoryError, RuntimeError) as error:  # torch reports lack of memory as a RuntimeError
        short = isinstance(error, MemoryError) or "memory" in str(error).lower()
        sys.stderr.write("memory ran out while an encoder was tuned.\n" if short else f"{error}\n")
        return 1
    return 0


def _end_with_input(folder: Path) -> None:
    """End at once when whoever asked is gone: nobody would take what comes, or clear it away."""
    while os.read(0, 1):  # not by `sys.stdin`, whose lock would be held when the process ends by itself
        pass
    _leave_nothing(folder)
    os._exit(1)


def _leave_nothing(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are in there
        folder.parent.rmdir()


if __name__ == "__main__":
    sys.exit(main())
