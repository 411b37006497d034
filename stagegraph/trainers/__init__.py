"""Adapters for trainers: each translates between its host and an engine, none decides.

Nothing is imported here: ``stagegraph.trainers.huggingface`` needs transformers,
``stagegraph.trainers.lightning`` lightning, and both say so.
"""
