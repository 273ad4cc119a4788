"""Weights in and out: other projects' files and names."""
