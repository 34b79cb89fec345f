"""Are a node's inputs what it can work with? Asked before any model is loaded."""
