"""Training: the one step, the loop around it, and what they keep on disk."""
