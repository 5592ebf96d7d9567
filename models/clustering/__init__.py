"""Clustering of features and what follows from it. The only door to faiss; torch is never imported here."""
