"""LPMFlow: a transformer over both images whose cross attention is the correlation, and the flow read from it."""
