"""Reading sound: decoding, resampling, normalisation, packed stores, recordings of any length."""
