"""Speed benchmarks, one per file. `measure(options)` of each returns its comparisons."""
