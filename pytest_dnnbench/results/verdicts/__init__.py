"""What became of a case since its baseline, decided and in words."""
