"""Students: small models trained on a teacher's answers, and their artifacts."""

from __future__ import annotations

from .loading import descriptions, load_student, own_bytes
from .student import LinearStudent, Student

__all__ = ["LinearStudent", "Student", "descriptions", "load_student", "own_bytes"]
