"""GPUs that are not there: see harness.py, and dry_run.py for a report of a config."""
