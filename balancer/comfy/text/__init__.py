"""The host's text encoders: tokens of a prompt, phrases encoded alone, rows of conditioning."""
