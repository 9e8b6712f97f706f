"""What was measured, as records."""
