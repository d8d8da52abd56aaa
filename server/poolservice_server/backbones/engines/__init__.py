"""The engines that run backbones: onnxruntime and torch. Only this package and `backbones.importing` import them."""
