"""Scripts for batch systems."""
