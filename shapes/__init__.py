"""The embedded world: synthetic scenes, an exact oracle, and tiny models trained on them."""
