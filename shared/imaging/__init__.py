"""Images as arrays: the tasks, their networks, the physics that degrades, the classical methods and the metrics."""
