"""Shared vocabulary: types, random keys, argument checks, configuration, precision."""
