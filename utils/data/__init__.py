"""Commands that prepare data: download, import, filelists, packed stores, sub-word models."""
