"""A benchmark a file: `measure(options)` returns its comparisons."""
