"""What is measured of a run, what stops it, and what tells that it goes wrong."""
