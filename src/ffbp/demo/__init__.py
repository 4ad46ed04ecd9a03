"""A page on which one draws a digit, and trained models answer."""
