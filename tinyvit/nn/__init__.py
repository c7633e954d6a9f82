"""Floor 4: things with parameters."""
