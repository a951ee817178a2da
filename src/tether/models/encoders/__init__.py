"""Models of other libraries: open_clip's, transformers' and ONNX graphs behind one interface."""
