"""Draws chains of model parameters."""
