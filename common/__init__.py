"""The training engine, independent of the model."""

from wav2vec2.cli.requirements import explain_missing_packages

explain_missing_packages()
