"""What every command shares: typed flags, one-line errors and exit codes, console and telemetry."""
