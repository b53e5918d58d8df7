"""Omni-CAD as published: its models' JSON, its folders and zips."""
