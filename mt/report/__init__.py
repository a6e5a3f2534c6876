"""Figures and the HTML page of an evaluation, made from its JSON files only. Imports no torch."""
