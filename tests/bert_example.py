"""A network of BERT's family, tiny and untrained, in a folder, as save_pretrained writes one."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["mary", "lives", "in", "paris", "london", "ann", "plays", "the", "piano", "##s", "where", "?", "."]


def write_bert(folder: Path, words: list[str] = WORDS, seed: int = 0, positions: int = 40) -> Path:
    """Write network, vocabulary and tokenizer; needs the package transformers."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=positions, **sizes)
    network = BertModel(config, add_pooling_layer=False)
    for weights in network.parameters():  # as drawn, states hardly differ
        torch.nn.init.normal_(weights, std=0.3)
    network.save_pretrained(folder)
    return folder
