"""The cost table: what every method computes, on the host's networks of true size."""
