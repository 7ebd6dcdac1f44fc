"""Files that are not sound: filelists, torch files, checksums, output that is written whole."""
