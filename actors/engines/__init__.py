"""Training engines behind one small protocol."""
