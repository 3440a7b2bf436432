"""The matchers: one file each, all behind nemf.matcher.Matcher."""
