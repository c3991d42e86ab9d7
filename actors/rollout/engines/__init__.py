"""Engines that sample, behind one small protocol."""
