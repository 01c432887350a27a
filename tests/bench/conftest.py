"""Small and few matrices for the machine's peak, so that each command of a test takes a second less."""

import pytest

from bench import hardware


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hardware.PEAK_SIZES, "cpu", (128, 256))
    monkeypatch.setattr(hardware, "MATMUL_ROUNDS", 2)
