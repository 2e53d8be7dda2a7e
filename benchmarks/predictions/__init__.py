"""Predictions of posterior ensembles on standard regression data."""
