"""External memories: what they hold, what is relevant in them, what of it is selected, and how a model reads it."""
