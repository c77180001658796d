"""Models for other runtimes: ONNX, eight-bit, pruned, and small students of them."""
