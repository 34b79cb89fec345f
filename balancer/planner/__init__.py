"""A layout from a prompt: by a language model or by rules."""
