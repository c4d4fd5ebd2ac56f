"""One isolated instance of a stage: how it is started, owned, read and removed."""
