"""What train.py trains: a model, its data, its loss and its measures, together."""
