"""Experiments of Smith et al. 2018, "Stochastic natural gradient descent draws posterior samples in function space"."""
