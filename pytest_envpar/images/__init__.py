"""Which exact bytes a stage is: pull, build, pin."""
