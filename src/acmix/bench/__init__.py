"""Measuring: operators and networks against what they replace, with records that say how each figure was made."""
