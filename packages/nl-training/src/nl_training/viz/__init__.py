"""Plots, profiles and drawings of graphs."""
