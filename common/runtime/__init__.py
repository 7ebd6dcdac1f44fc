"""Processes: the process group, the launcher, signals, keyed randomness, the environment."""
