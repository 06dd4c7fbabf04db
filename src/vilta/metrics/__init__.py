"""Figures of merit, with their rules."""
