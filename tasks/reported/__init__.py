"""Reads from artifacts what a report shows. `tasks.report` gets it as plain values."""
