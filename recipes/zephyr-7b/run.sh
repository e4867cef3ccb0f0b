#!/bin/sh
# Zephyr-7B with QLoRA on one GPU: SFT, DPO on the merged result, held-out numbers. README.md has sources and numbers.
set -eu
python -m tunekit recipes/zephyr-7b/1-sft.yaml "$@"
python -m tunekit recipes/zephyr-7b/2-dpo.yaml "$@"
python -m tunekit evaluate adapter=runs/zephyr-7b-dpo
