"""Results in, decisions out: fronts, cutoffs, figures."""

from importlib.util import find_spec

# A device's install has none of these; one line says so better than the first import that fails.
if _lacking := [
    name for name in ("moocore", "pandas", "pyarrow", "scipy", "seaborn", "tabulate") if not find_spec(name)
]:
    raise ImportError(f"analysis needs {', '.join(_lacking)}; install with: pip install 'fedmeter[analysis]'")
