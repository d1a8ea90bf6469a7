"""Base models: prepared once, embedded once, never downloaded."""

import os
import sqlite3

import numpy as np
import pytest

from jitr_core.base_models import BaseModels, HashingModel, TokenTable
from jitr_core.base_models.catalog import default_cache_dir, prepared_folder
from jitr_core.base_models.embeddings import EmbeddingCache
from jitr_core.base_models.models import OnnxEncoder
from jitr_core.errors import ArtifactError, MissingExtraError


def test_each_text_is_embedded_once_per_machine(tmp_path):
    texts = ["a b", "c", "a b", "d"]
    first = HashingModel("e")
    vectors = BaseModels(tmp_path, encoder=first).embed("encoder", texts)
    assert first.calls == 3
    again = HashingModel("e")
    models = BaseModels(tmp_path, encoder=again)
    assert np.array_equal(models.embed("encoder", [*texts, "new"])[:4], vectors)
    assert again.calls == 1


def test_embeddings_of_another_base_model_are_not_mixed_up(tmp_path):
    BaseModels(tmp_path, encoder=HashingModel("e")).embed("encoder", ["a"])
    other = HashingModel("f")
    BaseModels(tmp_path, encoder=other).embed("encoder", ["a"])
    assert other.calls == 1


@pytest.mark.parametrize("damage", ["garbage", "folder"])
def test_a_broken_embedding_cache_costs_time_but_no_result(damage, tmp_path):
    path = tmp_path / "embeddings.sqlite3"
    path.mkdir() if damage == "folder" else path.write_bytes(b"not a database" * 500)
    expected = HashingModel("e").embed("a")
    for _ in range(2):
        assert np.array_equal(BaseModels(tmp_path, encoder=HashingModel("e")).embed("encoder", ["a"])[0], expected)


def test_the_embedding_cache_is_bounded(tmp_path):
    cache = EmbeddingCache(tmp_path / "c.sqlite3", max_bytes=40_000)
    vectors = np.ones((50, 100), np.float32)
    for start in range(0, 400, 50):
        cache.put("m", [str(start + i) for i in range(50)], vectors)
    with sqlite3.connect(tmp_path / "c.sqlite3") as db:
        (used,) = db.execute("SELECT sum(length(vector)) FROM vectors").fetchone()
    db.close()
    assert used <= 40_000
    assert len(cache.get("m", ["399", "0"])) == 1


def test_without_the_extra_nothing_is_prepared_and_the_note_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("jitr_core.base_models.store.importlib.util.find_spec", lambda name: None)
    models = BaseModels(tmp_path)
    assert models.get("encoder") is None
    assert 'pip install "jitr[offline]"' in models.prepare()


def test_a_failed_preparation_is_told_and_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("JITR_ENCODER", str(tmp_path / "missing"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs = []
    monkeypatch.setattr(
        "jitr_core.base_models.store._run_prepare", lambda folder, **options: runs.append(1) or "it failed"
    )
    models = BaseModels(tmp_path / "cache")
    assert models.prepare() == models.prepare() == "it failed"
    assert runs == [1]


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("JITR_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path == BaseModels().folder
    assert BaseModels(tmp_path / "x").folder == tmp_path / "x"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A tiny random BERT, prepared as any encoder is."""
    pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from jitr_core.base_models.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    cache = tmp_path_factory.mktemp("cache")
    prepare(cache, str(folder), max_tokens=16)
    return cache


@pytest.mark.filterwarnings("default")
def test_a_prepared_encoder_embeds_each_text_alike_whatever_else_is_embedded(prepared):
    encoder = OnnxEncoder(prepared_folder(prepared) / "encoder")
    alone = encoder.embed("a b c")
    assert np.array_equal(BaseModels(prepared).embed("encoder", ["j" * 50, "a b c"])[1], alone)
    assert [name for name, _ in encoder.blocks] == ["final", "layer3", "layer2"]
    for block in range(3):
        assert np.linalg.norm(alone[32 * block : 32 * block + 32]) == pytest.approx(1, abs=1e-3)


@pytest.mark.filterwarnings("default")
def test_of_a_long_text_its_beginning_and_its_end_count(prepared):
    encoder = OnnxEncoder(prepared_folder(prepared) / "encoder")
    start, end = "a b c ", "e f g h i j a b c d e"
    cut = encoder.embed(start + "d " * 3 + end)
    assert np.array_equal(cut, encoder.embed(start + "j " * 5000 + end))
    assert not np.array_equal(cut, encoder.embed("j " + start + "d " * 3 + end))
    assert not np.array_equal(cut, encoder.embed(start + "d " * 3 + end + " j"))


@pytest.mark.filterwarnings("default")
def test_inputs_longer_than_the_models_own_limit_are_cut_to_it(prepared, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from jitr_core.base_models.prepare import add

    source = tmp_path / "short"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(prepared_folder(prepared) / "encoder" / "tokenizer.json"), pad_token="[PAD]"
    )
    tokenizer.save_pretrained(source)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=25, max_position_embeddings=20, **sizes)
    transformers.BertModel(config).save_pretrained(source)
    key = add(tmp_path / "cache", str(source))
    encoder = OnnxEncoder(prepared_folder(tmp_path / "cache") / key)
    assert encoder.max_tokens == 18
    assert np.isfinite(encoder.embed("a b c d " * 1000)).all()


@pytest.mark.filterwarnings("default")
def test_a_distilled_token_table_is_the_mean_of_its_tokens(prepared):
    table = TokenTable(prepared_folder(prepared) / "static")
    assert np.linalg.norm(table.embed("a b")) == pytest.approx(1, abs=1e-3)
    assert np.allclose(table.embed("a b"), table.embed("b a"))
    assert not table.embed("").any()


@pytest.mark.filterwarnings("default")
def test_a_changed_base_model_is_refused(prepared, tmp_path):
    import shutil

    copy = tmp_path / "encoder"
    shutil.copytree(prepared_folder(prepared) / "encoder", copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="was changed"):
        OnnxEncoder(copy)


def test_offline_without_a_package_names_the_extra(monkeypatch):
    from jitr_core.base_models import sources

    monkeypatch.delenv("JITR_ENCODER", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="offline"):
        sources.find_source()
    assert sources.find_source("some/model") == "some/model"


def test_a_model2vec_folder_works(shared):
    if not os.path.isdir(shared / "models" / "potion-base-4m"):
        pytest.skip("no Model2Vec folder at hand")
    table = TokenTable(shared / "models" / "potion-base-4m")
    near, far = (
        table.embed("my card was declined")
        @ np.stack([table.embed("card payment refused"), table.embed("sunny day")]).T
    )
    assert near > far + 0.2
