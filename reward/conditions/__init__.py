"""Conditions: the system prompts that tell one reward model which preference to apply."""

from reward.conditions.registry import (
    DEFAULT,
    Condition,
    Conditions,
    ConditionsError,
    UnknownCondition,
)

__all__ = ["DEFAULT", "Condition", "Conditions", "ConditionsError", "UnknownCondition"]
