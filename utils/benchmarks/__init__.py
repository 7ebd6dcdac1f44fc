"""Commands that measure speed and memory."""
