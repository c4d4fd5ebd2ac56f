"""Coverage of what runs in stages: measured inside, gathered, combined and reported here.

``asked`` says what is measured, from the command line (pytest-cov) or the configuration; ``gathered`` keeps what the
insides tell; ``by_pytest_cov`` and ``by_coverage`` report it as a local run would.
"""
