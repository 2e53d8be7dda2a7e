"""Methods that look for a mode, side by side."""
