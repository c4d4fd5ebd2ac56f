"""What runs inside a container to look at its file system: standard library only, Python 3.8 and newer."""
