"""Recordings inside other files: tar archives, Parquet and Arrow tables, and the like."""
