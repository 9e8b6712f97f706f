"""The pipeline planner: pure Python and NumPy, no torch."""
