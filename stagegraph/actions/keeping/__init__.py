"""Keeping: a run's whole state as bytes that hold nothing but data, and back."""
