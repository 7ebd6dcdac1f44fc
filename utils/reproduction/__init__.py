"""The command that reproduces the tables: the recipes that it runs, and what it collects."""
