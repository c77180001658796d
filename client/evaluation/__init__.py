"""A quality report of models on a hospital's own test patients, beside the classical methods of the task."""
