"""A folder for ``PYTHONPATH`` of the processes that tests start, where those are measured, too."""
