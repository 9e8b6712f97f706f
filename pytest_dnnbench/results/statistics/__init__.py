"""How much figures vary, and what a comparison of them can tell."""
