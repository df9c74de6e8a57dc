"""Results in, decisions out: fronts, cutoffs, figures."""
