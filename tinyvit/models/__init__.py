"""Floor 5: one paper, one file. ``catalogue`` puts the papers' tables together."""
