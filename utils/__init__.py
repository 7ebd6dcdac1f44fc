"""Data preparation and reports; each module is one command."""
