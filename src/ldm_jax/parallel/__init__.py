"""Meshes and shardings: where every array of a run lives."""
