"""Distillation: teachers, what they teach, and how far a student is from them."""
