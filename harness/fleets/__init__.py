"""Fleet files that ship with fedmeter."""
