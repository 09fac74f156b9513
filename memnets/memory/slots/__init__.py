"""Memories a Transformer attends to beside its window, one file each."""
