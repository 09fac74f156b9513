"""A trained reader with its external memory as a folder, asked and edited by people: in a terminal, on a page."""
