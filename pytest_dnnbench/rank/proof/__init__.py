"""Proofs: a framework's steps beside a reference in one process, before they are timed."""
