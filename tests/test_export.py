"""Export: a replacement leaves with a card that says what it is, and still loads."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import run
from test_engine import POLICY, serve, trained, url
from tiny_bases import write_encoder

from jitr_core import JITR
from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.base_models.catalog import Facts
from jitr_core.equivalence import canonical
from jitr_core.errors import ArtifactError, ConfigError
from jitr_core.export import export
from jitr_core.files import write_folder
from jitr_core.students import load_student
from jitr_core.students.lora import run_job
from jitr_core.students.recipes import candidates
from jitr_core.students.training import Bench, Classes
from jitr_core.students.tuning import Settings, Tuner


def test_an_export_loads_and_tells_what_it_rests_on(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    assert release is not None
    code, output = run("export", task.id, tmp_path / "out", "--url", url(tmp_path))
    assert code == 0, output
    models = BaseModels(tmp_path)
    one, other = (load_student(path, models) for path in (tmp_path / "out", release.path))
    inputs = [("parcel van again",), ("refund my invoice",)]
    assert one.predict(inputs)[0] == other.predict(inputs)[0]
    card = (tmp_path / "out" / "README.md").read_text()
    certificate = release.certificate
    for told in (
        release.id,
        "library_name: jitr",
        f"{certificate.calls:,} calls",
        "0.95",
        f"{certificate.agreement_low:.4f}",
    ):
        assert told in card
    assert certificate.threshold < 1e-300 and "if confidence > 0:" in card and "load_student" in card
    higher = replace(certificate, threshold=0.8125)
    store.add_release(replace(release, id="r_higher", certificate=higher))
    store.activate(task.id, "r_higher", "test")
    export(store, task, tmp_path / "stricter", BaseModels(tmp_path))
    assert "if confidence >= 0.8125:" in (tmp_path / "stricter" / "README.md").read_text()
    jitr.close()


def test_the_card_looks_thresholds_up_as_they_are_kept(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    kept = replace(release.certificate, threshold=2.0, thresholds={"billing": 0.25}, promise="classes")
    store.add_release(replace(release, id="r_classes", certificate=kept))
    store.activate(task.id, "r_classes", "test")
    export(store, task, tmp_path / "out", BaseModels(tmp_path))
    (asked,) = re.findall(r"if confidence >= (.*):", (tmp_path / "out" / "README.md").read_text())
    assert eval(asked, {"canonical": canonical, "answer": " billing\n"}) == 0.25
    jitr.close()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    models, full = BaseModels(tmp_path), tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="already"):
        export(store, task, full, models)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    (arrays,) = (tmp_path / "artifacts").rglob("arrays.safetensors")
    arrays.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="was changed"):
        export(store, task, tmp_path / "out", models)
    assert not (tmp_path / "out").exists()
    jitr.close()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft and transformers between themselves
def test_a_tuned_export_names_every_base_and_its_adapter_loads_by_that_name(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    import numpy as np
    from peft import AutoPeftModel

    hub, source = tmp_path / "hub", tmp_path / "hub" / "models--jitr-tests--tiny" / "snapshots" / "0"
    write_encoder(source, ["good", "bad", "one", "two"])
    (hub / "models--jitr-tests--tiny" / "refs").mkdir()
    (hub / "models--jitr-tests--tiny" / "refs" / "main").write_text("0")
    tiny, table = HashingModel("tiny"), HashingModel("table")
    vars(tiny)["source"] = str(source)
    facts = [
        Facts("tiny", "encoder", "jitr-tests/tiny", "mit", layers=2, width=32),
        Facts("table", "static", "/home/somebody/table", "cc-by-4.0"),
    ]
    models = BaseModels(tmp_path, further=list(zip(facts, (tiny, table), strict=True)))
    inputs = [(f"{word} one {'two' * (i % 3)}",) for i in range(20) for word in ("good", "bad")]
    on = Bench(inputs, Classes.of(["yes", "no"] * 20, 300), np.arange(40) % 10, models)
    quick = Settings(rank=2, epochs=1, frozen=0.0, max_tokens=16)
    on.tuner = Tuner(tiny, on.texts, on.classes.labels, on.folds, quick, 40, known=facts[0].source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tuner, "_run", lambda self, *job: run_job(*job, lambda share: None))
        stacked = next(r for r in candidates(["lora"], paired=False) if r.name == "lora/stacked")
        on.fit(stacked.on({"encoder": "tiny", "static": "table"})).save(tmp_path / "tuned")

    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    changed = replace(release, id="r_tuned", family="lora", base_model="tiny", path=str(tmp_path / "tuned"))
    store.add_release(changed)
    store.activate(task.id, "r_tuned", "test")
    folder = export(store, task, tmp_path / "out", models)
    jitr.close()
    card = (folder / "README.md").read_text()
    assert "base_model:\n- jitr-tests/tiny\n- table\nbase_model_license:\n- mit\n- cc-by-4.0\n" in card
    assert "| base models | jitr-tests/tiny, licence mit; table, licence cc-by-4.0 |" in card
    assert "over jitr-tests/tiny" in card and "tags: [jitr, text-classification]" in card
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text() and "somebody" not in card
    loaded = AutoPeftModel.from_pretrained(folder, cache_dir=hub, local_files_only=True)
    assert loaded.peft_config["default"].base_model_name_or_path == "jitr-tests/tiny"
    assert sum(p.abs().sum().item() for name, p in loaded.named_parameters() if "lora_B" in name) > 0


@pytest.mark.parametrize(
    ("kind", "tag"), [("fields", "information-extraction"), ("text", "text-generation"), ("linear", "classification")]
)
def test_the_card_is_found_by_what_the_student_does(tmp_path: Path, kind: str, tag: str) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)

    def fill(folder: Path) -> None:
        (folder / "student.json").write_text(json.dumps({"kind": kind, "answerer": {"base": "/some/where/gpt"}}))

    write_folder(tmp_path / "other", fill)
    store.add_release(replace(release, id="r_other", family="generator", path=str(tmp_path / "other")))
    store.activate(task.id, "r_other", "test")
    card = (export(store, task, tmp_path / "out", BaseModels(tmp_path)) / "README.md").read_text()
    jitr.close()
    assert tag in card and ("text-classification" in card) == (kind == "linear")
    assert "- gpt\n" in card and "/some/where" not in card


def test_without_a_replacement_there_is_nothing_to_export(tmp_path: Path) -> None:
    from easy import easy_calls

    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(60))
    jitr.close()
    code, output = run("export", "t_", tmp_path / "out", "--url", url(tmp_path))
    assert code == 2 and "no active replacement" in output
