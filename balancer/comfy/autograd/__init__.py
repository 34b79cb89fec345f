"""Gradients through the host's models: whatever holds their weights, and at what memory."""
