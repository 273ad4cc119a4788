"""Tasks: what is learned, as losses over explicit parameters."""
