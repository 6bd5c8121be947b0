"""Several nodes as one cluster: starting, watching and changing them."""
