"""DenseDiffusion in the host: patches for the rows of a model call that a layout speaks of."""
