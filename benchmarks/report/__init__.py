"""Time, size and memory of reports on large runs."""
