"""Reading and writing of files other than audio: filelists, text, torch files, checksums."""
