"""Comparing methods: arms x seeds, what is measured of them, and what the differences mean."""
