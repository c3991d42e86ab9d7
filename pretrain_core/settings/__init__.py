"""Settings: YAML files, dotted overrides, and errors that name file, line and key."""

from pretrain_core.settings.base import (
    ABSENT,
    DEFAULT,
    Resolved,
    Settings,
    difference,
    from_environment,
    kind_of,
)
from pretrain_core.settings.document import SettingsError
from pretrain_core.settings.load import load
from pretrain_core.settings.show import check, show

__all__ = [
    "ABSENT",
    "DEFAULT",
    "Resolved",
    "Settings",
    "SettingsError",
    "check",
    "difference",
    "from_environment",
    "kind_of",
    "load",
    "show",
]
