"""Tiny stand-ins with the real thing's layout: models of the right class with the right kind of tokenizer, and datasets
with the hub's files, splits and raw columns. Presets and recipes run on them through the real loader."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers import models as tokenizer_models
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from tunekit.models.builders import byte_tokenizer, tiny

SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """The Llama and Mistral kind: sentencepiece's space mark, bytes as fallback, BOS in front, no pad, no template."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581"]
    pieces += [chr(c) for c in range(33, 127)] + ["\u2581t", "he", "\u2581a", "in", "\u2581the"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581", "a"), ("i", "n"), ("\u2581t", "he")]
    core = Tokenizer(
        tokenizer_models.BPE(
            vocab={p: i for i, p in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def mistral(folder: Path) -> None:
    """Mistral-7B-v0.1's class: grouped queries, a sliding window."""
    tokenizer = llama_tokenizer()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=64, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def smollm2(folder: Path) -> None:
    """SmolLM2's template (with its default system message) and ids of bytes."""
    tiny(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = SMOLLM2_TEMPLATE, "<|im_end|>"
    tokenizer.save_pretrained(folder)


def _message(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}


def _write(folder: Path, **splits: list[dict[str, Any]]) -> None:
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def ultrachat(folder: Path) -> None:
    def row(i: int) -> dict[str, Any]:
        turns = [_message("user", f"What is yoga, {i}?"), _message("assistant", "A practice of body and mind.")]
        more = [_message("user", "Is it hard?"), _message("assistant", "It can be gentle.")]
        return {"prompt": turns[0]["content"], "prompt_id": f"{i:04x}", "messages": turns + more}

    rows = [row(i) for i in range(12)]
    _write(folder, train_sft=rows[:8], test_sft=rows[8:], train_gen=rows[:2], test_gen=rows[:2])


def ultrafeedback(folder: Path) -> None:
    def row(i: int) -> dict[str, Any]:
        question = _message("user", f"Plan a day in Cairo, {i}.")
        chosen = [question, _message("assistant", "Museum, then the river.")]
        rejected = [question, _message("assistant", "No." if i != 3 else "")]  # the real one has empty answers too
        return {
            "prompt": question["content"], "prompt_id": f"{i:04x}", "chosen": chosen, "rejected": rejected,
            "messages": chosen, "score_chosen": 8.5, "score_rejected": 3.0,
        }  # fmt: skip

    rows = [row(i) for i in range(12)]
    sft = [{k: r[k] for k in ("prompt", "prompt_id", "messages")} for r in rows]
    _write(folder, train_prefs=rows[:8], test_prefs=rows[8:], train_sft=sft[:2], test_sft=sft[:2], train_gen=sft[:2])


# A miniature for each preset that needs a hub. Presets that need none are run as they are.
MODELS = {"mistral-7b": mistral, "smollm2-135m": smollm2, "smollm2-135m-q4": smollm2, "tiny": tiny}
DATASETS = {"ultrachat-200k": ultrachat, "ultrafeedback-binarized": ultrafeedback}


def made(kind: str, name: str, root: Path) -> Path:
    folder = root / f"{kind}-{name}"
    if not folder.exists():
        {"model": MODELS, "dataset": DATASETS}[kind][name](folder)
    return folder


def replaced(model: str, dataset: str, root: Path) -> list[str]:
    """The only keys a recipe or preset test may set: model.path, dataset.path and args.max_steps."""
    words = [f"model.path={made('model', model, root)}", "args.max_steps=1"]
    return [*words, f"dataset.path={made('dataset', dataset, root)}"] if dataset in DATASETS else words
