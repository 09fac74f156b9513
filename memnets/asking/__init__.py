"""A trained reader of stories, asked by a person: in a terminal, and on a page of its own."""
