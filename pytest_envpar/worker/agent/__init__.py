"""What runs inside the container: standard library and pytest only, Python 3.8 and newer."""
