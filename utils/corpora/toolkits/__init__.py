"""Corpora as other toolkits keep them: data directories of Kaldi and ESPnet, Lhotse's manifests."""
