"""Plots, profiles and graph drawings."""
