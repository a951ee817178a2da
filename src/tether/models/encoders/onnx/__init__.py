"""Models that run without torch: ONNX and OpenVINO graphs of both towers, what lies beside them, and the way back."""
