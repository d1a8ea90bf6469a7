"""Base models of a few kilobytes with random weights, and a task of which a generator tuned on them learns all."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ITEMS = {"parcel": "tracked", "invoice": "corrected", "refund": "paid", "courier": "called"}
FILLER = "please today again my the it still thanks hello really urgent yesterday friend morning phone works".split()
WORDS = [*FILLER, *ITEMS, *ITEMS.values(), "your", "is", "being", "now", "we", "are", "sorry"]
WIDTH, LAYERS = 48, 1


def said(item: str) -> str:
    """The answer to a message about an item."""
    return f"we are sorry your {item} is being {ITEMS[item]} now"


def messages(count: int, seed: int = 0, items: Any = tuple(ITEMS)) -> list[tuple[str, str]]:
    """Messages and answers; none comes twice."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        item = rng.choice(items)
        words = [*rng.choices(FILLER, k=rng.randint(4, 7)), item]
        rng.shuffle(words)
        found.append((f"{' '.join(words)} {seed}{i}", said(item)))
    return found


def calls(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Such messages as the calls of one step."""
    system = {"role": "system", "content": "You write a short reply to a message that a customer sent to us."}
    return [
        {
            "id": f"{seed}-{i}",
            "messages": [system, {"role": "user", "content": f"Message: {text}"}],
            "answer": answer,
            "model": "gpt-4.1",
        }
        for i, (text, answer) in enumerate(messages(count, seed))
    ]


def write_base(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a base model, "causal" (Llama) or "seq2seq" (T5), and a tokenizer of words."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(folder)
    config, shapes = (_llama if kind == "causal" else _t5)(tokens)
    rng = np.random.default_rng(seed)
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_encoder(folder: Path, words: Sequence[str]) -> Path:
    """Write an encoder, a BERT of two small layers, and a tokenizer of these words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **size)).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}), encoding="utf-8"
    )
    return len(vocabulary)


def _llama(tokens: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": tokens, "max_position_embeddings": 96, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (tokens, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (tokens, WIDTH),
    }
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (WIDTH, WIDTH) for n in "qkvo"}
        shapes |= {f"{at}.mlp.{n}_proj.weight": (2 * WIDTH, WIDTH) for n in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (WIDTH, 2 * WIDTH)}
        shapes |= {f"{at}.{n}_layernorm.weight": (WIDTH,) for n in ("input", "post_attention")}
    return config, shapes


def _t5(tokens: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": WIDTH, "d_ff": 2 * WIDTH,
        "d_kv": 12, "num_heads": 4, "num_layers": LAYERS, "num_decoder_layers": LAYERS, "vocab_size": tokens,
        "is_encoder_decoder": True, "n_positions": 96, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (tokens, WIDTH), "lm_head.weight": (tokens, WIDTH)}
    for side, attentions in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        shapes[f"{side}.final_layer_norm.weight"] = (WIDTH,)
        for i in range(LAYERS):
            for j, name in enumerate(attentions):
                at = f"{side}.block.{i}.layer.{j}"
                shapes |= {f"{at}.{name}.{n}.weight": (WIDTH, WIDTH) for n in "qkvo"}
                shapes[f"{at}.layer_norm.weight"] = (WIDTH,)
                if i == j == 0:
                    shapes[f"{at}.{name}.relative_attention_bias.weight"] = (32, 4)
            at = f"{side}.block.{i}.layer.{len(attentions)}"
            shapes |= {f"{at}.DenseReluDense.{n}.weight": s for n, s in
                       (("wi", (2 * WIDTH, WIDTH)), ("wo", (WIDTH, 2 * WIDTH)))}  # fmt: skip
            shapes[f"{at}.layer_norm.weight"] = (WIDTH,)
    return config, shapes
