"""Workloads, one file each: the only place that imports torch. `linear` does without."""
