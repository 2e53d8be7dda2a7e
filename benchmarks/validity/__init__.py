"""The validity test bed: every sampler on every target with known truth, and how far each is from what it must draw."""
