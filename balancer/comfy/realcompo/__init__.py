"""The guider: two branches denoise one latent, balanced by their attention."""
