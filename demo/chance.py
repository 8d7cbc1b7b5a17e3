"""Chance, removed: the same seed gives the same model."""

import random
import warnings

import numpy
import torch
from transformers import logging


def fixed(seed: int) -> None:
    """Fix all seeds, ask for deterministic kernels and use one thread."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Sums are split over the threads, so their number changes the last digits of every result. One is the number
    # that every machine has; and on so small a model, threads spend most of their time waiting for each other.
    torch.set_num_threads(1)
    # The loaders' own bars would break ours.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # PEFT asks transformers for something under its older name; the hint is not meant for our readers.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
