"""The reward service: Ray Serve behind our own HTTP interface, batching by tokens, hot swaps."""
