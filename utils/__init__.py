"""Commands, one file each, in packages by purpose."""
