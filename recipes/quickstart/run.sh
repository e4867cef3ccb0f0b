#!/bin/sh
# From a chat model to an aligned adapter: SFT, then DPO on that adapter, then the numbers and some answers.
# `make demo` runs this. Extra words go to both stages, e.g. ./run.sh precision=fp32
set -eu
python -m tunekit recipes/quickstart/1-sft.yaml overwrite=true "$@"
python -m tunekit recipes/quickstart/2-dpo.yaml overwrite=true "$@"
echo "
== Held-out questions, before and after =="
python -m tunekit evaluate adapter=runs/quickstart-sft samples=0
python -m tunekit evaluate adapter=runs/quickstart-dpo dataset=quickstart-preferences samples=4 \
    max_new_tokens=64 repetition_penalty=1.2
echo "
The adapter lies in runs/quickstart-dpo. Talk to it:
    python -m tunekit chat adapter=runs/quickstart-dpo repetition_penalty=1.2"
