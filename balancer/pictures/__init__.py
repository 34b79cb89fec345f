"""Layouts, traces, mixes and attention as pictures."""
