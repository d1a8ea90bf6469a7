"""Base models: the pretrained models that students start from, prepared once per machine."""

from __future__ import annotations

from .models import BaseModel, HashingModel, OnnxEncoder, TokenTable
from .store import BaseModels

__all__ = ["BaseModel", "BaseModels", "HashingModel", "OnnxEncoder", "TokenTable"]
