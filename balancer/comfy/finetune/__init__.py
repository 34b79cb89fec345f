"""Separate-and-Enhance and reward feedback learning on the host's models; LoRA files."""
