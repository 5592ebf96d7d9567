"""Barlow Twins as a pretext method of knowledge-transfer, from a package of its own."""
