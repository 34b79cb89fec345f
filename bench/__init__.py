"""Quality and cost of the methods against their references, on the embedded world."""
