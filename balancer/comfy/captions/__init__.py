"""Captioning models in the host, and rewards by them."""
