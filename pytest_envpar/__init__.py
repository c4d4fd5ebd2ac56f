"""Environment parity for pytest: run a suite inside a stage's container and see how environments drift.

PYTEST_DONT_REWRITE: there are no assertions to explain here, and the command ``envpar`` imports this before pytest.
"""
