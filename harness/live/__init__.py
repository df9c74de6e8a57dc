"""The page that shows a run while it goes on, and the same figures for Prometheus. Owned by no engine: it watches."""
