"""Readers that exports carry with them: each file runs by itself, without any other code of ours."""
