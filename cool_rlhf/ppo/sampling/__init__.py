"""Where samples come from: prompts, engines, and what answers replies."""
