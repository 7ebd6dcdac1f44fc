"""Commands, one file each, in packages by purpose."""

from wav2vec2.cli.requirements import explain_missing_packages

explain_missing_packages()
