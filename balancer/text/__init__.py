"""Words: one splitter for every language, phrases found again, English things and places."""
