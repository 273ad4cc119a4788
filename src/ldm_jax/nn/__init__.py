"""Layers shared by the networks: they hold parameters and know no schedule, sampler or data."""
