"""memnets: memory-augmented neural networks in PyTorch. Importing it has no side effects."""

__version__ = "0.1.0"
