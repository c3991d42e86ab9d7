#!/usr/bin/env bash
# Prints the CPU lock: a freeze of what pip resolves for the project, less the wheels that break on a CPU machine.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -e ".[cpu,dev,verifiers]" setuptools==78.1.1 numba==0.65.0 >&2
cat <<'HEAD'
# CPU environment, installed with --no-deps. torchvision, torchaudio, torchcodec and triton are left out on purpose:
# their registry builds are for CUDA and break the import of torch-based libraries on a CPU machine.
# Renew with `make lock`.
HEAD
"$work/venv/bin/pip" freeze --all |
    grep -vE '^(pip|torchvision|torchaudio|torchcodec|triton|-e|cool-rlhf)([=@ ]|$)' |
    sed -E 's/^(torch==[0-9.]+)\+cpu$/\1/'
