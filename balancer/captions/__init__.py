"""After RealignDiff: dense captions, what detectors saw, and rewards."""
