"""The verbs of `python -m profiler`, one module each: `run` does it and gives the exit code."""
