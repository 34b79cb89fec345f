"""Cross-attention, for every method: maps, the tokens of phrases, regions of a batch, losses."""
