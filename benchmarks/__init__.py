"""Stock luigid and ours, side by side on one machine. Run with `make bench`; docs/benchmarks.md says how to read it."""
