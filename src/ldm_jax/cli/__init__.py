"""Commands: parse, then call."""
