"""Studies of many runs: points of configurations, their results, and their plots."""
