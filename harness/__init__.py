"""Experiments over fleets of devices."""

from importlib.util import find_spec

# A device's install has none of these; one line says so better than the first import that fails.
if _lacking := [name for name in ("pyarrow", "tabulate", "tqdm") if not find_spec(name)]:
    raise ImportError(f"harness needs {', '.join(_lacking)}; install with: pip install 'fedmeter[harness]'")
