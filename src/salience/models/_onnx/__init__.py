"""Files of ONNX, read without running anything in them."""
