"""What the verbs of an engine take and give: frozen, a module for each subject, imported where it is needed."""
