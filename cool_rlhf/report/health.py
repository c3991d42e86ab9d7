"""The health lights of a PPO report."""

from pathlib import Path

from cool_rlhf.ppo.monitor.health import FILE
from pretrain_core.runs.files import RunError, read_json
from pretrain_core.runs.html import Markup, escaped, table

_CLASSES = {"good": "better", "watch": "dim", "bad": "worse"}


def health(run: Path) -> str:
    """A row for each light as it stood after the newest iteration; advice where it is not good."""
    found = read_json(run / FILE)
    if not isinstance(found, list):
        raise RunError(f"{run / FILE}: expected a list of lights")
    rows = [
        [
            light["name"],
            Markup(f'<span class="{_CLASSES[light["state"]]}">● {escaped(light["state"])}</span>'),
            light["seen"],
            "" if light["state"] == "good" else light["advice"],
        ]
        for light in found
    ]
    return table(rows, ["", "light", "seen", "what to do"])
