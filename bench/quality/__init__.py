"""The quality table: every method on the same scenes of the embedded world."""
