"""Reports: one self-contained HTML page for any run directory."""

from cool_rlhf.report.compose import compose

__all__ = ["compose"]
