#!/usr/bin/env bash
# What a GPU gives: needs a CUDA device, Python with torch, and nothing edited. Ends within ten minutes, writes
# benchmarks/results/gpu.json (or OUT) after each step. Installs nothing: PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec timeout 590 "${PYTHON:-python3}" -m benchmarks.gpu --out "${OUT:-benchmarks/results/gpu.json}" --limit "${LIMIT_S:-120}" "$@"
