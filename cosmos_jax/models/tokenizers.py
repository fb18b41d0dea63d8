"""What the text encoders share of their Hugging Face tokenizers: loading them, and one check."""

from typing import Any

from jaxtyping import Int32
from numpy import ndarray


def load(network: str, name: str, files: str) -> Any:
    """The tokenizer of a folder or a repository.

    Args:
        network: whose it is, for messages.
        name: the folder, or a Hugging Face repository.
        files: what such a folder holds, for messages.

    Raises:
        ValueError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    # The tokenizers library raises plain Exceptions for damaged files.
    except Exception as error:
        raise ValueError(
            f"{network}: tokenizer {name!r} cannot be loaded: it must be a folder with a {files}, "
            "or a Hugging Face repository that can be reached or is in the cache "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def check_ids(network: str, name: str, ids: Int32[ndarray, "b s"], vocabulary: int) -> None:
    """Raises a ValueError for ids beyond the network's vocabulary."""
    if ids.max() >= vocabulary:
        raise ValueError(
            f"{network}: tokenizer {name!r} makes token {ids.max()}, and the network has a "
            f"vocabulary of {vocabulary}; use the tokenizer that belongs to the weights"
        )
