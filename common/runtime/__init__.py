"""Processes: process group, launcher, signals, worker pool, randomness, environment, variables."""
