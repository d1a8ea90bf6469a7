"""Export: a replacement leaves with a card that says what it is, and still loads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import run
from test_engine import POLICY, serve, trained, url

from jitr_core import JITR
from jitr_core.base_models import BaseModels
from jitr_core.equivalence import canonical
from jitr_core.errors import ArtifactError, ConfigError
from jitr_core.export import export
from jitr_core.students import load_student


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
    assert repr(certificate.threshold) in card and "load_student" in card
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


def test_without_a_replacement_there_is_nothing_to_export(tmp_path: Path) -> None:
    from easy import easy_calls

    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(60))
    jitr.close()
    code, output = run("export", "t_", tmp_path / "out", "--url", url(tmp_path))
    assert code == 2 and "no active replacement" in output
