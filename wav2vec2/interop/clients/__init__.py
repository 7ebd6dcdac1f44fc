"""A recogniser as a folder that another program loads: sherpa-onnx, transformers.js."""
