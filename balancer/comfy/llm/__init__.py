"""Language models asked from a node: the network, waiting, and answers kept."""
