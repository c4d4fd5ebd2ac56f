"""What the rings of tests share, a module for each subject."""
