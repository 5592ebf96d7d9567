"""Measures of features, clusterings and predictions: arrays in, numbers out. faiss is never imported here."""
