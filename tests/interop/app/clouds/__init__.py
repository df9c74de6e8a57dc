"""An app for Flower that knows nothing of fedmeter; the tests add it, by two lines."""
