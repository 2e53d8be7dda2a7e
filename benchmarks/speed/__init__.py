"""What langevin costs in time and memory, beside other libraries and beside what PyTorch cannot do without."""
