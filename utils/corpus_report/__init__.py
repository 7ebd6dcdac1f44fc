"""What an import found: corpus.json, the page corpus.html, and the printed summary."""
