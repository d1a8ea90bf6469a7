"""Does a user's earlier replacement help a later task? Its class scores as features beside the encoder's embedding.

python benchmarks/earlier.py    # some five minutes of one core

An earlier task's student (encoder family, 2,000 examples) scores the inputs of a later task; candidates of the encoder
family with and without a head on these scores are compared on the later task's test set, three seeds.
"""

from __future__ import annotations

import numpy as np
from transfer import mean_interval, remembering, score
from transfer_data import load

from jitr_core.base_models import BaseModels
from jitr_core.base_models.models import BaseModel
from jitr_core.config import Policy
from jitr_core.search import FOLDS, search
from jitr_core.students.recipes import CandidateRecipe, HeadRecipe, candidates
from jitr_core.students.training import Bench, Classes

PAIRS = (
    ("sst2", "phrasebank-gpt4", "both sentiment"),
    ("clinc150", "banking77-gpt4", "both intents"),
    ("trec", "agnews", "unrelated"),
)
SIZES, SEEDS = (100, 500), 3


class WithEarlier:
    """An encoder whose embedding is followed by what an earlier student makes of the text."""

    def __init__(self, encoder: BaseModel, student) -> None:
        self.encoder, self.student = encoder, student
        self.name, self.hash = encoder.name, f"{encoder.hash}+earlier"
        self.blocks = (*encoder.blocks, ("earlier", len(student.answers)))
        self.known: dict[str, np.ndarray] = {}

    def embed(self, text: str) -> np.ndarray:
        """See `BaseModel.embed`."""
        if text not in self.known:
            scores = self.student.scores(self.student.look((text,)))
            pooled = np.exp(np.tensordot(self.student.combination.weights, scores[:, 0], axes=1))
            own = (pooled / np.linalg.norm(pooled)).astype(np.float32)
            self.known[text] = np.concatenate([self.encoder.embed(text), own])
        return self.known[text]


def main() -> None:
    base = remembering(None)
    alone = next(r for r in candidates(("encoder",), paired=False) if r.name == "encoder")
    head = HeadRecipe("earlier", (), {"encoder": {"earlier": 1.0}})
    joint = HeadRecipe("final+earlier", (), {"encoder": {"final": 0.5, "earlier": 0.5}})
    helped = CandidateRecipe("encoder+earlier", "encoder", "encoder", (*alone.heads, head, joint))
    print("| earlier | later | examples | encoder | with earlier scores | gain |\n|---|---|---|---|---|---|")
    for earlier, later, how in PAIRS:
        source = load(earlier).sample(2000, 0)
        student = search(source, policy=Policy(), base_models=base, families=("encoder",)).fit()
        models = BaseModels(None, encoder=WithEarlier(base.get("encoder"), student), static=base.get("static"))
        texts = load(later, test=500)
        for size in SIZES:
            found: dict[str, list[float]] = {"encoder": [], "encoder+earlier": []}
            for seed in range(SEEDS):
                dataset = texts.sample(min(size, len(texts.pool)), seed)
                bench = Bench(dataset.inputs, Classes.of(dataset.labels, 300), dataset.folds(FOLDS), models)
                for recipe in (alone, helped):
                    found[recipe.name].append(score(bench.fit(recipe), texts)["accuracy"])
            gain = [b - a for a, b in zip(*found.values(), strict=True)]
            cells = [mean_interval(values) for values in (*found.values(), gain)]
            print(f"| {earlier} | {later}, {how} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
