"""Which way to run a tuned encoder is fastest on this CPU, and what does it cost in precision?

    python benchmarks/engines.py [--calls 60] [--cache DIR]     # two minutes of one core; needs the extra `train`

One encoder is tuned on made-up inputs, and run by torch as peft leaves it and merged, by ONNX Runtime merged in full
precision and with int8 weights, and as JITR serves it: int8 weights, the adapter as inputs of the network. CPU seconds
of a call at the median, one thread, calls of the engines taking turns; least cosine of an embedding with that of the
merged network in full precision. Exit code 1 where the one that serves takes 1.5 times as long as another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bases import with_adapter
from inference import SUBJECTS, inputs

from jitr_core.base_models import BaseModels
from jitr_core.base_models.export import _pooling, pooled_blocks, write_network
from jitr_core.students.tuned import TunedEncoder
from jitr_core.students.tuning import Settings, Tuner, source_of

LENGTHS = (16, 64, 128)  # tokens of a call
SLOWER = 1.5
SERVES = "ONNX Runtime, int8, adapter as inputs (serves)"

Engine = Callable[[np.ndarray], np.ndarray]
"""Token ids, shape (1, tokens) → the embedding, shape (d,)."""


def tuned_encoder(models: BaseModels) -> tuple[TunedEncoder, str]:
    """An encoder tuned on a few hundred inputs, and the folder of its base model's weights."""
    import random

    texts = inputs(400, 12, random.Random(1))
    labels = np.arange(len(texts)) % len(SUBJECTS)
    encoder, known = models.get("encoder"), models.facts("encoder").source
    tuner = Tuner(encoder, texts, labels, np.arange(len(texts)) % 10, Settings(), len(texts), known=known)
    return tuner.fit(), source_of(encoder, known)


def engines(tuned: TunedEncoder, source: str, folder: Path) -> dict[str, Engine]:
    """The ways to run it, by name."""
    import onnxruntime
    import torch

    tuned.write_adapter(folder)
    adapted, merged = with_adapter(source, folder), with_adapter(source, folder).merge_and_unload()
    layers, _ = pooled_blocks(merged.config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def by_torch(model: torch.nn.Module) -> Engine:
        def run(ids: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                told = torch.from_numpy(ids)
                states = model(input_ids=told, attention_mask=torch.ones_like(told), output_hidden_states=True)
                means = [states.hidden_states[i].mean(1) for i in layers]
                return torch.cat([torch.nn.functional.normalize(each, dim=-1) for each in means], dim=1)[0].numpy()

        return run

    def by_onnx(session: onnxruntime.InferenceSession, apart: dict[str, np.ndarray]) -> Engine:
        return lambda ids: session.run(None, {"ids": ids, "mask": np.ones_like(ids), **apart})[0][0]

    def session(file: Path) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    torch.set_num_threads(1)
    write_network(folder / "small.onnx", merged, layers, {})
    ids = torch.arange(24).reshape(2, 12)
    names = {"input_names": ["ids", "mask"], "output_names": ["embedding"], "opset_version": 17, "dynamo": False}
    axes = {"ids": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"}, "embedding": {0: "batch"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = (_pooling(merged, layers), (ids, torch.ones_like(ids)), str(folder / "full.onnx"))
        torch.onnx.export(*whole, dynamic_axes=axes, **names)
    return {
        "torch, fp32, adapter beside": by_torch(adapted),
        "torch, fp32, merged": by_torch(merged),
        "ONNX Runtime, fp32, merged": by_onnx(session(folder / "full.onnx"), {}),
        "ONNX Runtime, int8, merged": by_onnx(session(folder / "small.onnx"), {}),
        SERVES: by_onnx(tuned._session, tuned._apart),
    }


def cpu_s(work: Callable[[], object]) -> float:
    """Seconds of CPU that some work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=60, help="calls of each length")
    parser.add_argument("--cache", default=None, help="folder of prepared base models")
    arguments = parser.parse_args(argv)
    models = BaseModels(arguments.cache)
    if missing := models.prepare():
        print(missing, file=sys.stderr)
        return 2
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        tuned, source = tuned_encoder(models)
        ways = engines(tuned, source, Path(scratch))
        words = tuned._tokenizer.get_vocab_size()
        taken: dict[str, dict[int, list[float]]] = {name: {length: [] for length in LENGTHS} for name in ways}
        near = dict.fromkeys(ways, 1.0)
        for length in LENGTHS:
            for call in range(arguments.calls + 3):
                ids = rng.integers(1000, words, (1, length))
                exact = ways["torch, fp32, merged"](ids)
                for name, run in ways.items():
                    found: list[np.ndarray] = []
                    spent = cpu_s(lambda run=run, ids=ids, found=found: found.append(run(ids)))
                    if call >= 3:  # the first ones set up
                        taken[name][length].append(spent)
                    cosine = float(found[0] @ exact / np.linalg.norm(found[0]) / np.linalg.norm(exact))
                    near[name] = min(near[name], cosine)
    medians = {name: [statistics.median(each) for each in by.values()] for name, by in taken.items()}
    print(f"| engine | {' | '.join(f'{length} tokens, ms' for length in LENGTHS)} | least cosine |")
    print(f"|---|{'---|' * (len(LENGTHS) + 1)}")
    for name, seconds in medians.items():
        print(f"| {name} | {' | '.join(f'{each * 1e3:.1f}' for each in seconds)} | {near[name]:.4f} |")
    fastest = [min(each) for each in zip(*medians.values(), strict=True)]
    slow = [own > SLOWER * best for own, best in zip(medians[SERVES], fastest, strict=True)]
    return int(any(slow))


if __name__ == "__main__":
    sys.exit(main())
