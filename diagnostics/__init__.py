"""Judges chains."""
