"""Rewriting: rules that replace patterns of nodes by fused ones."""
