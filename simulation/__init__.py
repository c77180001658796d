"""Many virtual hospitals on one machine: synthetic sites, the in-process grid, runs and their reports."""
