"""Long runs, which `make soak` makes one after the other; short seeds of them are in the tests."""
