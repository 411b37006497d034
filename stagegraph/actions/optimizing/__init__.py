"""Optimizers: their state through growth, and the learning rates in force while they step."""
