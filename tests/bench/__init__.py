"""Benchmarks, run by `make bench`. Every figure stands beside a peer that was measured in the same run."""
