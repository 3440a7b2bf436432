"""Training NeMF networks: annotated pairs of images in, weights out. Knows the model; nothing else knows it."""
