"""All four methods one after the other, as one workflow runs them."""
