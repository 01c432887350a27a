"""Warnings of a run that learns nothing."""

from __future__ import annotations

from pipelines.monitoring.signs import AdapterLost, EqualGroups
from pipelines.run_folder.records import StepRecord


def warned_at(*equal: int) -> list[int]:
    """The steps that bring a warning, of steps of ten groups each."""
    signs = EqualGroups()
    warnings = [signs.step(StepRecord(step=1, groups=10, equal_groups=count)) for count in equal]
    return [step for step, warning in enumerate(warnings, start=1) if warning]


def test_nearly_equal_groups_are_told_once_until_a_step_is_better() -> None:
    assert warned_at(9, 10, 9, 10, 10) == [3]
    assert warned_at(9, 9, 8, 9, 9, 9, 9, 2, 9, 9, 9) == [6, 11]


def test_a_step_without_groups_is_no_sign() -> None:
    assert not any(EqualGroups().step(StepRecord(step=1, groups=0, equal_groups=0)) for _ in range(5))


def test_an_adapter_that_rounding_swallows_is_told_once_until_it_arrives() -> None:
    sign = AdapterLost()
    shares = [0.1, 0.2, None, 0.1, 0.2, 0.49, 0.1, 0.51, 0.1, 0.1, 0.25]  # None: nothing was drawn in the step
    warnings = {
        step: warning
        for step, share in enumerate(shares, 1)
        if (warning := sign.step(StepRecord(step=step, adapter_share=share)))
    }
    assert list(warnings) == [6, 11]
    assert "only 25% of the adapter" in warnings[11]
