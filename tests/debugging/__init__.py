"""Debuggers, questions and input of tests inside a stage."""
