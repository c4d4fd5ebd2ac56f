"""Engine JSON to our values and back, a module for each subject.

Unknown keys are ignored and missing ones have a default: Podman leaves out what Docker always sends, and
every version adds something.
"""
