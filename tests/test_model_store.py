"""Base models: many to choose among, found by their sources, and none that is broken stops a search."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from easy import FILLER, QUEUES, easy_calls
from test_engine import serve, url
from test_replay import run as command
from test_search import WORDS, dataset, easy
from typer.testing import CliRunner

from jitr_core import JITR, cli
from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.base_models.catalog import POOL, Facts, prepared_folder, prepared_models, read_facts, write_facts
from jitr_core.base_models.prepare import add
from jitr_core.base_models.sources import locate
from jitr_core.config import Policy
from jitr_core.errors import ArtifactError, ConfigError, TrainingError
from jitr_core.files import MANIFEST
from jitr_core.manage import compare_by, missing_bases, tasks_resting_on
from jitr_core.manage.figures import at_hand
from jitr_core.report.facts import task_facts
from jitr_core.report.models import model_facts
from jitr_core.search import search
from jitr_core.store import Store
from jitr_core.students import load_student
from jitr_core.students.training import Bench
from jitr_core.types import CandidateReport, Certificate, SearchReport, Task


class Meaning(HashingModel):
    """A base model that sees what lexical students cannot: which of two sets a word's number is in."""

    def embed(self, text: str) -> np.ndarray:
        self.calls += 1
        sides = [int(word[1:]) % 2 for word in text.split() if word[1:].isdigit()]
        share = np.float32(np.mean(sides) if sides else 0.5)
        found = np.zeros(sum(width for _, width in self.blocks), np.float32)
        for start, (_, width) in zip((0, self.blocks[0][1]), self.blocks, strict=True):
            found[start : start + 2] = share, 1 - share
            found[start : start + width] /= np.linalg.norm(found[start : start + width])
        return found


def meant(n: int, seed: int = 0) -> list:
    """Inputs of ever new words; the answer is the side most of them are on."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        side = int(rng.integers(2))
        numbers = 2 * rng.integers(1, 10**6, 9) + np.where(rng.random(9) < 0.8, side, 1 - side)
        made.append(((" ".join(f"n{i}" for i in numbers),), ("odd" if side else "even")))
    return made


def encoder(name: str, layers: int = 6) -> Facts:
    return Facts(name, "encoder", name, layers=layers, width=384)


def run(pairs: list, models: BaseModels, **options):
    policy = options.pop("policy", Policy())
    return search(dataset(pairs), policy=policy, base_models=models, **options)


def note(found, name: str) -> str:
    return next(c.note for c in found.candidates if c.name == name)


def table(folder: Path, words: list[str] = WORDS, **tensors: np.ndarray) -> Path:
    """A Model2Vec folder."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *words])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).standard_normal((len(words) + 1, 8)).astype(np.float32)
    save_file(tensors or {"embeddings": vectors}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def test_of_several_encoders_the_better_one_is_found_on_samples(tmp_path: Path) -> None:
    blind, seeing = HashingModel("blind"), Meaning("seeing")
    models = BaseModels(tmp_path, encoder=blind, further=[(encoder("seeing"), seeing)])
    found = run(meant(600), models, families=("encoder",))
    assert found.chosen is not None and found.chosen.endswith(":seeing")
    assert "base model dropped at 250 inputs" in note(found, "encoder probe:blind")
    assert "log-probability" in note(found, "encoder probe:blind")
    assert blind.calls <= 300
    student = found.fit()
    assert student.base_model == "seeing"
    student.save(tmp_path / "artifact")
    new = meant(100, seed=5)
    right = [
        a == b
        for a, (_, b) in zip(
            load_student(tmp_path / "artifact", models).predict([x for x, _ in new])[0], new, strict=True
        )
    ]
    assert np.mean(right) > 0.85
    with pytest.raises(ArtifactError, match="not prepared"):
        load_student(tmp_path / "artifact", BaseModels(tmp_path, encoder=blind))


def test_of_even_encoders_the_cheaper_one_is_taken(tmp_path: Path) -> None:
    further = [(encoder("dear", 24), Meaning("dear")), (encoder("cheap", 2), Meaning("cheap"))]
    found = run(meant(300), BaseModels(tmp_path, encoder=HashingModel("blind"), further=further), families=("encoder",))
    assert found.chosen is not None and found.chosen.endswith(":cheap")


def test_an_encoder_that_adds_nothing_is_not_paid_for(tmp_path: Path) -> None:
    found = run(easy(600), BaseModels(tmp_path, encoder=HashingModel("e")))
    winner = next(c for c in found.candidates if c.name == found.chosen)
    assert winner.family == "lexical"
    encoders = [c.cost_s for c in found.candidates if c.family == "encoder" and c.cost_s is not None]
    assert winner.cost_s is not None and winner.cost_s < min(encoders)


def test_a_search_after_a_killed_one_finds_the_embeddings_it_had_made(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, share: float) -> None:
        if what.startswith("stacked/joint"):
            raise Killed

    first, again = HashingModel("e"), HashingModel("e")
    with pytest.raises(Killed):
        run(easy(300), BaseModels(tmp_path, encoder=first), progress=kill)
    run(easy(300), BaseModels(tmp_path, encoder=again))
    assert first.calls >= 300 and again.calls <= 4  # the answers' own names


def test_work_seconds_and_memory_are_budgets_that_leave_the_cheap_candidates(tmp_path: Path, monkeypatch) -> None:
    models = BaseModels(tmp_path, encoder=HashingModel("e"))
    found = run(easy(300), models, policy=Policy(search_work_s=1e-3))
    assert found.chosen is not None and found.chosen.startswith("lexical")
    assert "over the work" in note(found, "encoder:e")
    found = run(easy(300), models, policy=Policy(search_seconds=1e-6))
    assert found.chosen == "lexical/word" and "out of time" in note(found, "encoder:e")
    whole = Bench.crossed

    def hungry(self: Bench, recipe):
        if recipe.base:
            raise MemoryError
        return whole(self, recipe)

    monkeypatch.setattr(Bench, "crossed", hungry)
    found = run(easy(300), models)
    assert found.chosen is not None and found.chosen.startswith("lexical")
    assert "out of memory" in note(found, "encoder:e")
    with pytest.raises(TrainingError, match="out of memory"):
        run(easy(300), models, families=("encoder",))


@pytest.fixture
def no_torch(monkeypatch) -> None:
    """Nothing can be prepared in a child process."""
    monkeypatch.setattr("jitr_core.base_models.store._run_prepare", lambda folder, *options, tell: "no torch here")


def test_a_folder_is_added_once_and_takes_part(tmp_path: Path, no_torch) -> None:
    source = table(tmp_path / "mine")
    cache = tmp_path / "cache"
    assert add(cache, str(source)) == add(cache, str(source)) == "mine"
    facts = prepared_models(cache)["mine"]
    assert (facts.kind, facts.licence, facts.width, facts.parameters) == ("static", "mit", 8, 151 * 8)
    assert facts.source == str(source) and facts.size_bytes and facts.token_s and facts.multiplications == 0
    models = BaseModels(cache)
    assert models.keys("static") == ["mine"]
    found = run(easy(200), models, families=("lexical", "static"))
    assert any(c.base_model == "mine" and c.score is not None for c in found.candidates)
    other = table(tmp_path / "elsewhere").rename(tmp_path / "elsewhere-mine")
    (tmp_path / "sub").mkdir()
    assert add(cache, str(other.rename(tmp_path / "sub" / "mine"))) == "mine-1"


def test_a_name_that_two_models_have_removes_neither_and_what_cannot_be_removed_is_said(
    tmp_path: Path, no_torch, monkeypatch
) -> None:
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        add(tmp_path / "cache", str(table(tmp_path / place / "mine")))
    for path in prepared_folder(tmp_path / "cache").iterdir():
        write_facts(path, replace(read_facts(path), name="tiny"))
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "cache"))

    def busy(*_: object, **__: object) -> None:
        raise OSError("busy")

    def remove(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            CliRunner().invoke(cli.app, ["models", "remove", name], catch_exceptions=False)
        return str(caught.value)

    assert "2 base models are called 'tiny'" in remove("tiny") and "mine, mine-1" in remove("tiny")
    assert "there is no base model" in remove("yours")
    with monkeypatch.context() as patched:
        patched.setattr("jitr_core.base_models.store.shutil.rmtree", busy)
        assert "cannot be removed: busy" in remove("mine-1")
    assert CliRunner().invoke(cli.app, ["models", "remove", "mine-1"]).exit_code == 0
    assert list(prepared_models(tmp_path / "cache")) == ["mine"]


def replaced_by_mine(folder: Path, monkeypatch) -> str:
    """A state whose task is replaced by a student that embeds with the table `mine`; its URL."""
    monkeypatch.setenv("JITR_CACHE", str(folder / "cache"))
    words = [*FILLER, *(word for queue in QUEUES.values() for word in queue)]
    add(folder / "cache", str(table(folder / "mine", words, embeddings=np.eye(len(words) + 1, dtype=np.float32))))
    jitr = JITR(url(folder), policy=Policy(families=("static",)), training="inline", seed=1)
    serve(jitr, easy_calls(250))
    jitr.close()
    with Store(url(folder)) as store:
        release = store.active_release(store.tasks()[0].id)
        assert release is not None and release.base_model == "mine"
    return url(folder)


def test_a_base_model_that_replacements_need_is_removed_only_by_force_and_their_tasks_say_so(
    tmp_path: Path, no_torch, monkeypatch
) -> None:
    state = replaced_by_mine(tmp_path, monkeypatch)
    add(tmp_path / "cache", str(table(tmp_path / "idle")))
    with Store(state) as store:
        (task,) = store.tasks()

    def reasons(tag: str) -> list[str]:
        """How an app that starts now decides calls."""
        jitr = JITR(state, training="off")
        jitr.refresh()
        found = serve(jitr, easy_calls(40, seed=9), tag)
        jitr.close()
        return found

    assert "answered" in reasons("now")
    assert command("models", "remove", "idle", "--url", state) == (0, "idle: removed.\n")
    code, output = command("models", "remove", "mine", "--url", state)
    assert code == 2 and task.id in output and "--force" in output and "mine" in prepared_models(tmp_path / "cache")
    assert "cannot be loaded" not in command("tasks", "--url", state)[1]
    code, output = command("models", "remove", "mine", "--force", "--url", state)
    assert code == 0 and task.id in output and "ask the teacher" in output and not prepared_models(tmp_path / "cache")
    for asked in (("tasks",), ("tasks", "show", task.id)):
        code, output = command(*asked, "--url", state)
        assert code == 0 and "cannot be loaded here: its base model mine is not prepared in" in output
    (facts,) = json.loads(command("tasks", "--json", "--url", state)[1])
    assert facts["missing_bases"] == ["mine"]
    assert "answered" not in reasons("later")
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "elsewhere"))
    code, output = command("doctor", "--look-only", "--url", state)
    told = next(line for line in output.splitlines() if "replacements" in line)
    assert code == 1 and "JITR_CACHE=FOLDER" in told and "rollback" not in told
    code, output = command("models", "--url", state, "remove", "mine")
    assert code == 2 and "--url stands before the command" in output


def test_a_base_model_is_good_at_what_it_was_certified_for(tmp_path: Path) -> None:
    certificate = Certificate(0.95, 0.01, threshold=0.8, coverage=0.7, calls=450, errors=9, agreement_low=0.957)
    better, worse = (CandidateReport(f"static:{name}", "static", name, score=0.7) for name in ("good", "bad"))
    with Store(url(tmp_path)) as store:
        for task in ("won", "lost", "won_then_lost"):
            store.save_task(Task(task, "default", "", task))
        for task, chosen, reached in (
            ("won", better, certificate),
            ("lost", worse, None),
            ("won_then_lost", better, certificate),
            ("won_then_lost", worse, None),
        ):
            store.add_search(SearchReport(task, 300, [better, worse], chosen=chosen.name, certificate=reached))
        found = model_facts(
            BaseModels(tmp_path, further=[(encoder(n), HashingModel(n)) for n in ("good", "bad")]), store
        )
    told = {each["name"]: each["chosen"] for each in found if each["name"] in ("good", "bad")}
    assert told["bad"] == [] and sorted(each["task"] for each in told["good"]) == ["won", "won_then_lost"]
    assert {each["coverage"] for each in told["good"]} == {0.7}


def test_a_rule_of_likeness_needs_the_static_table_and_a_generator_its_folder(
    tmp_path: Path, no_torch, monkeypatch
) -> None:
    state = replaced_by_mine(tmp_path, monkeypatch)
    models = BaseModels(tmp_path / "cache")
    with Store(state) as store:
        (task,) = store.tasks()
        release = store.active_release(task.id)
        assert release is not None and missing_bases(release, models) == []
        assert [each.id for each in tasks_resting_on(store, models, "mine")] == [task.id]
        assert tasks_resting_on(store, models, "static") == []
        alike = replace(release.certificate, equivalence="embedding:0.9")
        store.add_release(replace(release, id="r_alike", certificate=alike))
        store.activate(task.id, "r_alike", "test")
        assert [each.id for each in tasks_resting_on(store, models, "static")] == [task.id]
        assert missing_bases(replace(release, certificate=alike), models) == ["static"]
    add(tmp_path / "cache", str(table(tmp_path / "another")))
    (prepared_folder(tmp_path / "cache") / "another" / "manifest.json").write_text("rubbish")
    assert missing_bases(release, models) == [], "what is wrong with another base is no matter"
    assert models.by_hash("mine", "mine", models.hashes()["mine"]).name == "mine"
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "student.json").write_text(json.dumps({"answerer": {"base": str(tmp_path / "writer")}}))
    writing = replace(release, path=str(tmp_path / "text"))
    assert missing_bases(writing, models) == ["writer"]
    (tmp_path / "writer").mkdir()
    assert missing_bases(writing, models) == []


def test_a_damaged_base_model_costs_the_search_only_that(tmp_path: Path, no_torch) -> None:
    for name in ("good", "bad"):
        add(tmp_path / "cache", str(table(tmp_path / name)))
    with (prepared_folder(tmp_path / "cache") / "bad" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    found = run(easy(200), BaseModels(tmp_path / "cache"), families=("lexical", "static"))
    assert "was changed" in note(found, "base model bad")
    assert any(c.base_model == "good" for c in found.candidates)


def test_a_manifest_that_cannot_be_read_keeps_no_other_model_from_being_found(
    tmp_path: Path, monkeypatch, no_torch
) -> None:
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "cache"))
    for name in ("good", "bad"):
        add(tmp_path / "cache", str(table(tmp_path / name)))
    models = BaseModels(tmp_path / "cache")
    model = models.get("good")
    (prepared_folder(tmp_path / "cache") / "bad" / MANIFEST).write_text("{")
    assert models.hashes() == {"good": model.hash}
    assert models.by_hash("renamed", "good", model.hash) is model
    with pytest.raises(ArtifactError, match="cannot be read"):
        models.get("bad")
    assert command("models", "remove", "bad", "--url", url(tmp_path))[0] == 0
    assert set(prepared_models(tmp_path / "cache")) == {"good"}


def test_figures_for_the_ledger_are_told_by_the_models_of_the_settings(tmp_path: Path, monkeypatch, no_torch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JITR_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    add(tmp_path / "own", str(table(tmp_path / "static")))
    policy = Policy(families=("lexical",), audit_share_start=1.0, cache_dir=str(tmp_path / "own"))
    jitr = JITR(url(tmp_path), policy=policy, training="inline", seed=1)
    serve(jitr, easy_calls(250))
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    alike = replace(release, id="r_alike", certificate=replace(release.certificate, equivalence="embedding:0.9"))
    compare_by(store, task, "embedding:0.9")
    store.add_release(alike)
    store.activate(task.id, "r_alike", "test")
    jitr.refresh()
    serve(jitr, easy_calls(64, seed=3), "a")
    jitr.close()
    (tmp_path / "jitr.toml").write_text('cache = "own"\n')
    with Store(url(tmp_path)) as store:
        known = task_facts(store)[0]["replacement"]["audited"]
        assert known["audits"] > 0 and at_hand(store, alike) == {"release": "r_alike", **known}
        (tmp_path / "jitr.toml").write_text("cash = 1\n")
        told = at_hand(store, alike)
        assert told["answered"] == known["answered"] and "agreement" not in told, "yet it keeps nobody from a decision"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no weights as safetensors"),
        ({"pytorch_model.bin": b"pickle"}, "Pickled weights are never loaded"),
        ({"model.safetensors": b"not one"}, "cannot be read"),
        ({"model.safetensors": None}, "config.json cannot be read"),
        ({"model.safetensors": None, "config.json": b"{"}, "config.json cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(files: dict, message: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    source = tmp_path / "odd"
    source.mkdir()
    for name, content in files.items():
        if content is None:
            save_file({"weight": np.zeros(3, np.float32)}, source / name)
        else:
            (source / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        add(tmp_path / "cache", str(source))
    assert prepared_models(tmp_path / "cache") == {}


def test_another_architecture_is_refused_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = tmp_path / "images"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(source)
    with pytest.raises(ArtifactError, match="cannot be loaded as a text encoder"):
        add(tmp_path / "cache", str(source))
    assert prepared_models(tmp_path / "cache") == {}


def test_generators_are_known_and_take_no_part_in_embedding(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    source = tmp_path / "writer"
    source.mkdir()
    save_file({"weight": np.zeros(3, np.float32)}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    add(tmp_path / "cache", str(source))
    models = BaseModels(tmp_path / "cache")
    assert models.keys("generator") == ["writer"] and models.facts("writer").source == str(source)
    assert models.keys("encoder") == models.keys("static") == []


def test_nothing_is_fetched_unless_the_user_allowed_it(tmp_path: Path, monkeypatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(source: str, *, local_files_only: bool = False, **options) -> str:
        asked.append(local_files_only)
        raise OSError("no network\nand more")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    with pytest.raises(ArtifactError, match="downloads are not allowed"):
        locate("some/model")
    assert asked == [True]
    with pytest.raises(ArtifactError, match="could not be fetched from the model hub: no network"):
        locate("some/model", download=True)
    assert asked == [True, True, False]
    with pytest.raises(ArtifactError, match="no folder and no installed package"):
        locate(str(tmp_path / "nowhere"))


def test_a_wanted_model_that_cannot_be_had_is_told_and_asked_for_once(tmp_path: Path, monkeypatch) -> None:
    runs: list[tuple] = []

    def prepare(folder: Path, *options: str, tell) -> str:
        runs.append(options)
        return "it is not there" if "--add" in options else "no torch here"

    monkeypatch.setattr("jitr_core.base_models.store._run_prepare", prepare)
    models = BaseModels(tmp_path, wanted=("some/model",))
    for _ in range(2):
        found = run(easy(150), models)
        assert note(found, "base model some/model") == "it is not there"
    assert [options for options in runs if "--add" in options] == [("--add", "some/model")]
    everything = BaseModels(tmp_path, download=True)
    everything.prepare()
    assert set(everything.refused) == {each.source for each in POOL if each.kind != "generator"}


def test_the_pool_names_sources_and_licences() -> None:
    assert all("/" in each.source and each.licence and each.parameters for each in POOL)
    assert {each.kind for each in POOL} == {"encoder", "static", "generator"} and len({e.name for e in POOL}) == len(
        POOL
    )
    assert any(each.tuned_for for each in POOL)


def test_models_are_listed_added_and_removed_by_hand(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "cache"))
    source = table(tmp_path / "mine")
    assert command("models", "add", str(source))[0] == 0
    code, output = command("models", "--json")
    found = {each["name"]: each for each in json.loads(output)}
    assert code == 0 and found["mine"]["key"] == "mine" and found["potion-base-8M"]["key"] is None
    code, output = command("models")
    assert code == 0 and "mine" in output and "not here" in output
    code, output = command("models", "add", str(tmp_path / "none"))
    assert code == 2 and "no folder" in output
    assert command("models", "remove", "mine")[0] == 0 and not prepared_models(tmp_path / "cache")
    assert command("models", "remove", "mine")[0] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_the_training_process_can_be_limited_in_memory() -> None:
    import subprocess

    code = "import numpy as np\nfrom jitr_core.jobs import limit_memory\nlimit_memory(700)\nnp.ones(200_000_000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and "MemoryError" in done.stderr


def test_a_policy_reaches_the_training_process_whole() -> None:
    from jitr_core.jobs import policy_from_json, policy_to_json

    policy = Policy(base_models=("a", "b/c"), download=True, search_seconds=60, search_memory_mb=2000)
    assert policy_from_json(policy_to_json(policy)) == policy
