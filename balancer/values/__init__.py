"""Values and files from outside, read with care; files written whole or not at all."""
