"""Generated reward-hack cases: samples of two policies, scripted judges, and what was planted."""
