"""What every room's tests share."""

from hypothesis import HealthCheck, settings

# How fast examples are made says more of the machine than of the test.
settings.register_profile("fedmeter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedmeter")
