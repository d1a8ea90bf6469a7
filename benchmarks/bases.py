"""Base models made for the benchmarks: MiniLM cut to some layers, and MiniLM's shape with random weights.

They are stand-ins for a model hub, which is not at hand, and labelled as such wherever they occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jitr_core.base_models.sources import find_source

CUTS = {
    "cut-0": (0,),
    "cut-02": (0, 2),
    "cut-024": (0, 2, 4),
    "cut-135": (1, 3, 5),
    "cut-0123": (0, 1, 2, 3),
}
RANDOM = {"random-6": 6, "random-2": 2}


def with_adapter(source: Path | str, adapter: Path) -> Any:
    """A base model with an adapter that peft wrote, for inference; weights are read as safetensors, by name."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(source, use_safetensors=True, attn_implementation="eager")
    model = get_peft_model(plain, PeftConfig.from_pretrained(adapter))
    set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    return model.train(False)


def make(folder: Path, names: Iterable[str] = (*CUTS, *RANDOM)) -> dict[str, Path]:
    """Write the models of these names that are not there yet as transformers folders; their places by name."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    source = find_source()
    found = {}
    for name in names:
        found[name] = folder / f"MiniLM-{name}"
        if found[name].exists():
            continue
        if name in CUTS:
            model = AutoModel.from_pretrained(source, local_files_only=True)
            model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[i] for i in CUTS[name]])
            model.config.num_hidden_layers = len(CUTS[name])
        else:
            torch.manual_seed(0)
            config = AutoConfig.from_pretrained(source, local_files_only=True)
            config.num_hidden_layers = RANDOM[name]
            model = AutoModel.from_config(config)
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(found[name])
        model.save_pretrained(found[name])
    return found
