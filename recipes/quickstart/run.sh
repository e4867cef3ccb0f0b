#!/bin/sh
# From a chat model to an aligned adapter: SFT, then DPO on that adapter, then some answers and the numbers.
# `make demo` runs this. Extra words go to both stages, e.g. ./run.sh precision=bf16
set -eu
python -m tunekit recipes/quickstart/1-sft.yaml overwrite=true "$@"
python -m tunekit recipes/quickstart/2-dpo.yaml overwrite=true "$@"
echo "
== Held-out questions, before and after =="
python -m tunekit evaluate adapter=runs/quickstart-dpo dataset=quickstart-chat samples=4 \
    max_new_tokens=64 repetition_penalty=1.1 out=runs/quickstart-dpo/evaluation-chat.json
python -m tunekit evaluate adapter=runs/quickstart-dpo dataset=quickstart-preferences samples=0
echo "
The adapter lies in runs/quickstart-dpo. Talk to it:
    python -m tunekit chat adapter=runs/quickstart-dpo repetition_penalty=1.1"
