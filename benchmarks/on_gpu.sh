#!/usr/bin/env bash
# Build, test and measure the CUDA operators on a machine with an NVIDIA GPU: one command, under ten minutes, no
# network. Needs torch 2.11 or later, nvcc, pytest.
#   benchmarks/on_gpu.sh            tables go to $OUT, or to benchmarks/results
#   PYTHON=python3.12 MINUTES=5 benchmarks/on_gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -x .venv/bin/python ] && python=.venv/bin/python
fi
out=${OUT:-benchmarks/results}
mkdir -p "$out"
export YOLOV4_OPS_CACHE=${YOLOV4_OPS_CACHE:-$(mktemp -d)} PYTHONPATH=.
begin=$SECONDS
limit=$((${MINUTES:-9} * 60))
failed=0

step() {
    echo "== $1 ($((SECONDS - begin)) s)"
    shift
    "$@" || failed=1
}

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "no GPU that torch can use")' || exit 4
step "the card" nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv
step "build" "$python" -m models.ops --build
step "tests" timeout 180 "$python" -m pytest -q -m cuda -p no:cacheprovider tests/test_ops_cuda.py
if command -v compute-sanitizer > /dev/null; then
    step "memory checker" timeout 60 compute-sanitizer --error-exitcode 1 "$python" -m benchmarks.on_gpu --smallest
else
    echo "memory checker: not measured (no compute-sanitizer)"
fi
left=$((limit - (SECONDS - begin)))
step "measure" timeout $((left + 30)) "$python" -m benchmarks.on_gpu --seconds "$left" --out "$out"
echo "== done in $((SECONDS - begin)) s"
exit $failed
