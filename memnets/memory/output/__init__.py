"""Memories behind a language model's head: they recall which words followed states like the present one."""
