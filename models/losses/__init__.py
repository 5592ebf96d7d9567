"""Losses as pure functions: tensors in, usually a scalar out."""
