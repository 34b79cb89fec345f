"""How families of models attend to their prompt: one file per architecture, each one object."""
