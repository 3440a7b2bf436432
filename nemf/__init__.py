"""Semantic matchers and their mathematics. Knows torch; knows neither Ray nor Arrow."""

from nemf.load import load_matcher
from nemf.matcher import ImagePair, Match, Matcher

__all__ = ["ImagePair", "Match", "Matcher", "__version__", "load_matcher"]
__version__ = "0.1.0"
