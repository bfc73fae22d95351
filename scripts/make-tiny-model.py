"""Make a tiny Llama with random weights and a tokenizer of its own, for trying servers without a GPU.

    make-tiny-model.py FOLDER

Needs torch, transformers and tokenizers, nothing from the network: the tokenizer is trained on the sources
of Python's standard library. The same versions always make the same model. It has 4096 tokens, 8192
positions and about a million weights; it speaks gibberish, and now and then it ends its turn early.
"""

import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

VOCABULARY = 4096
TEXT_BYTES = 4_000_000
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts() -> list[str]:
    """Python's own modules in the order of their names, up to TEXT_BYTES in all."""
    found: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size >= TEXT_BYTES:
            break
        found.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(found[-1])
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be written in it, and a token may be half a character."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        model_max_length=8192,
        chat_template=CHAT_TEMPLATE,
    )


def main(folder: Path) -> None:
    disable_progress_bar()
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make-tiny-model.py FOLDER")
    main(Path(sys.argv[1]))
