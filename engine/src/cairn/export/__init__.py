"""A trained model for other programs: safetensors, ONNX, a folder with a model card; each is verified."""
