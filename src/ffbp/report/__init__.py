"""From finished runs to a table, figures and a page."""
