"""The gate that a patched reward model must pass before it may replace its parent."""

from cool_rlhf.hacks.gate.evidence import GateError, GateEvidence
from cool_rlhf.hacks.gate.material import anchors_of, legitimate_uses
from cool_rlhf.hacks.gate.report import GateReport, Outcome
from cool_rlhf.hacks.gate.run import gate
from cool_rlhf.hacks.gate.settings import GateSettings

__all__ = [
    "GateError",
    "GateEvidence",
    "GateReport",
    "GateSettings",
    "Outcome",
    "anchors_of",
    "gate",
    "legitimate_uses",
]
