"""Optimisers derived from inference beside those of torch.optim."""
