"""Evaluation of language models."""

from pretrain_core.evaluate.perplexity import LossReport, evaluate_loss

__all__ = ["LossReport", "evaluate_loss"]
