"""Model files with random values, in the formats and under the names that users' files have."""
