"""The same sampler on the same workload, by several libraries."""
