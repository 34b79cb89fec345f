"""The quality table on a user's own checkpoints and layouts."""
