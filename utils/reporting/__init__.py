"""What utils/report.py is made of: logs read, tables made, pages and figures drawn."""
