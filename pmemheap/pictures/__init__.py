"""Pictures: what is where in a heap, for a terminal, a browser and a notebook."""
