"""Students: small models trained on a teacher's answers, the base models they start from, and their artifacts."""

from __future__ import annotations

from .base_models import BaseModel, HashingModel, TokenTable
from .loading import load_student
from .model_store import BaseModels
from .student import LinearStudent, Student

__all__ = ["BaseModel", "BaseModels", "HashingModel", "LinearStudent", "Student", "TokenTable", "load_student"]
