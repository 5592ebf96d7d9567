"""Clusters features and propagates labels. Only this package imports faiss. It never imports torch."""
