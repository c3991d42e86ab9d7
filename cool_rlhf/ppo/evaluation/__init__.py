"""Each saved policy on held-out prompts, beside the training; and which one to keep."""
