"""Networks: images in, tensors out."""
