#!/usr/bin/env bash
# Build, test and measure the CUDA operators on a machine with an NVIDIA GPU: one command, under ten minutes, no
# network. Needs torch 2.11 or later and nvcc, for the tests pytest.
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
export YOLOV4_OPS_CACHE=${YOLOV4_OPS_CACHE:-$(mktemp -d)} PYTHONPATH=.
begin=$SECONDS
limit=$((${MINUTES:-9} * 60))
failed=0

step() {  # what, seconds at most, command: out of time is no failure, but said
    echo "== $1 ($((SECONDS - begin)) s)"
    local what=$1 most=$2
    shift 2
    timeout "$most" "$@"
    case $? in
        0) ;;
        124) echo "$what: not measured (more than $most s)" ;;
        *) failed=1 ;;
    esac
}

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "no GPU that torch can use")' || exit 4
mkdir -p "$out"
step "the card" 30 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv
step "build" 180 "$python" -m models.ops --build
if "$python" -c 'import pytest' 2> /dev/null; then  # without conftest.py, which needs hypothesis
    step "tests" 150 "$python" -m pytest -q -m cuda -W default -p no:cacheprovider --noconftest tests/test_ops_cuda.py
else
    echo "tests: not measured (no pytest)"
fi
if command -v compute-sanitizer > /dev/null; then
    step "memory checker" 90 compute-sanitizer --error-exitcode 1 "$python" -m benchmarks.on_gpu --smallest
else
    echo "memory checker: not measured (no compute-sanitizer)"
fi
left=$((limit - (SECONDS - begin)))
step "measure" $((left + 30)) "$python" -m benchmarks.on_gpu --seconds "$left" --out "$out"
echo "== done in $((SECONDS - begin)) s"
exit $failed
