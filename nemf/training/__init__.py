"""Training of NeMF networks: examples, augmentation, losses and the trainer."""
