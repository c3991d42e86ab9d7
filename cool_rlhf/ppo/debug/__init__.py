"""Halves of the loop alone, and a run computed again."""
