"""Commands that report runs: the report page, tables and figures."""
