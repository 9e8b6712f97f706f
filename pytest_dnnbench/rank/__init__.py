"""What runs on a rank: the only part of the package that imports torch."""
