"""Reads finished run folders: tables, figures, reports."""
