"""What is in preference files, and what looks wrong: report, label noise, pair features."""
