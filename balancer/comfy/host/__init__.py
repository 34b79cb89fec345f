"""The host's ways on every release: options, schedules, latents, cards, places for output."""
