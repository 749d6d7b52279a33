"""Tiny students from scratch: a T5 or a Llama of some hundred thousand weights, and a tokenizer trained on the texts.

Small enough to train in seconds on one core. The tokenizer is a byte-level BPE with every digit a token of its own:
it writes any text back exactly, and a number is read digit by digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distill.spec import StudentSpec

PAD, END = "<pad>", "</s>"
MAX_POSITIONS = 4096


def tiny_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE of at most ``vocabulary`` tokens; the same texts give the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # digits alone, a word with the blank before it, a run of blanks, any other sign alone
            pre_tokenizers.Split(Regex(r"\d| ?\p{L}+|\s+(?!\S)|\s+| ?[^\s\p{L}\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False)


def tiny_model(spec: StudentSpec, tokenizer: Any) -> Any:
    """A T5 or Llama with random weights (torch's seed) for this tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if spec.model == "tiny-seq2seq":
        make: Any = T5Config
        return T5ForConditionalGeneration(
            make(
                d_model=spec.width,
                d_kv=spec.width // spec.heads,
                d_ff=4 * spec.width,
                num_layers=spec.layers,
                num_heads=spec.heads,
                dropout_rate=spec.dropout,
                decoder_start_token_id=tokenizer.pad_token_id,
                **ids,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=spec.width,
            intermediate_size=3 * spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            max_position_embeddings=MAX_POSITIONS,
            attention_dropout=spec.dropout,
            initializer_range=spec.width**-0.5,  # the default, 0.02, suits a width of 2,500: a tiny one hardly learns
            tie_word_embeddings=True,
            bos_token_id=None,
            **ids,
        )
    )
