"""A PyTorch app for Flower that knows nothing of fedmeter; a test adds it, by two lines."""
