"""Two model patchers: one model or two, what each adds, whose turn it is."""
