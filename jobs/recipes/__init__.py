"""Recipes: whole trainings as configurations, stage by stage. `nemf recipe NAME` runs one.

Each docstring states the data needed, the cost and the result; docs/training.md, where the data are from and the
commands of each stage. A stage is the Config of a job.
"""
