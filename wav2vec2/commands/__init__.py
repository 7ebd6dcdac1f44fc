"""The installed command `wav2vec2`: its subcommands, and what each runs."""
