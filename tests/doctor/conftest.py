"""What these tests share: a store with one model."""

from pathlib import Path

import pytest

from tests.doctor.world import Patient, patient_at
from tests.support.registry import ScriptedRegistry


@pytest.fixture
async def patient(registry: ScriptedRegistry, tmp_path: Path) -> Patient:
    return await patient_at(registry, tmp_path / "models")
