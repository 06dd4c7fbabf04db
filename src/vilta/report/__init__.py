"""The HTML report of a run: what is drawn, and the page it is drawn on."""
