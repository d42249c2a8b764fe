#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks and measures pyrel on a GPU, in one command of less than nine minutes.
set -uo pipefail
cd "$(dirname "$0")/.."

# Each stage with the seconds after which it is stopped.
STAGES=(versions:30 build:130 probes:25 agreement:60 timing:160 sanitizer:60 tests:45 ncu:25)
WHEELS=build/gpu-wheels TOOLS=build/gpu-tools SITE=build/gpu-site
LARGEST=64 # MiB of wheels
TESTS=(tests/engine/test_cuda_device.py tests/engine/test_cuda_tensors.py tests/engine/test_cuda_refusals.py
  tests/engine/test_cuda_precision.py)

help() {
  cat <<'TEXT'
usage: tools/gpu_check.sh [--emulated] [--out DIR] [--prepare] [--list] [STAGE...]

Runs all stages, or those that are named. Each has a time limit of its own, and none stops the
others, except that nothing runs without a device. Results go to DIR ($OUT, or build/gpu-check, or
with --emulated build/gpu-check-emulated) as lines of JSON, with a log of each stage; a summary is
printed at the end. With --emulated all limits are three times as long.

  versions   what there is
  build      pyrel for this device's architecture, without a network, into build/gpu-site
  probes     copies, products and launches of torch
  agreement  bits and errors beside the CPU's engine and float64
  timing     pyrel beside torch and cuDNN
  sanitizer  the four tools of compute-sanitizer on a tiny program
  tests      the tests of device= on the device
  ncu        three launches under Nsight Compute

  --emulated  use the emulated library, tiny sizes and torch on the CPU; needs
              `make build .venv/.tools-installed`
  --prepare   download the wheels that the build needs, for Python 3.12, into build/gpu-wheels
  --list      print the stages and their limits in seconds

PYTHON names the interpreter (default: python3, which has torch; with --emulated .venv/bin/python).
Exit status: 0 if all stages passed, 1 if one did not, 2 for a mistake in the call.
TEXT
}

prepare() {
  rm -rf "$WHEELS"
  local platforms=() version
  for version in 2014 _2_17 _2_24 _2_26 _2_27 _2_28; do
    platforms+=(--platform "manylinux${version}_x86_64")
  done
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --dest "$WHEELS" --requirement requirements/build.txt \
    --requirement requirements/cli.txt --requirement requirements/test.txt \
    "$(grep '^safetensors==' requirements/runtime.txt)" || return 1
  local size
  size=$(du -sm "$WHEELS" | cut -f1)
  echo "$WHEELS: $(find "$WHEELS" -name '*.whl' | wc -l) wheels, $size MiB"
  ((size < LARGEST)) || { echo "more than $LARGEST MiB" >&2; return 1; }
}

build() {
  if [[ $EMULATED ]]; then
    PYTHONPATH=tests "$PYTHON" -c 'from engine import cuda_emulated; print(cuda_emulated.built())'
    return
  fi
  [[ -d $WHEELS ]] || { echo "there is no $WHEELS: run tools/gpu_check.sh --prepare where there is a network" >&2; return 1; }
  rm -rf "$TOOLS" "$SITE"
  local pip=("$PYTHON" -m pip install --quiet --no-index --no-deps)
  "${pip[@]}" --target "$TOOLS" "$WHEELS"/*.whl || return 1
  local target=${GPU_TARGET:-$("$PYTHON" tools/gpu/versions.py --target)}
  PATH="$PWD/$TOOLS/bin:$PATH:/usr/local/cuda/bin" PYTHONPATH="$PWD/$TOOLS" PYREL_CUDA=ON \
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "${pip[@]}" --verbose --no-build-isolation \
    --target "$SITE" --config-settings "cmake.define.PYREL_CUDA_TARGETS=$target" .
}

sanitizer() {
  local tool jobs=() status=0 program=$OUT/tiny.program
  "$PYTHON" tools/gpu/tiny.py "${FLAGS[@]}" --save "$program" || return 1
  for tool in memcheck racecheck synccheck initcheck; do
    local under=(compute-sanitizer --tool "$tool" --error-exitcode 9)
    [[ $EMULATED ]] && under=(env) # the emulator looks for races and accesses out of region itself
    "${under[@]}" "$PYTHON" tools/gpu/tiny.py "${FLAGS[@]}" --load "$program" >"$OUT/$tool.log" 2>&1 &
    jobs+=("$tool:$!")
  done
  for tool in "${jobs[@]}"; do
    local result=0
    wait "${tool#*:}" || result=$?
    echo "{\"tool\": \"${tool%:*}\", \"status\": $result}" >>"$OUT/sanitizer.jsonl"
    ((result == 0)) || { status=1; tail -n 20 "$OUT/${tool%:*}.log"; }
  done
  return "$status"
}

tests() {
  local options=(-W default -p no:cacheprovider -rs --numprocesses=auto --maxprocesses=8)
  [[ $EMULATED ]] && PYREL_CUDA_LIBRARY=$(build) && export PYREL_CUDA_LIBRARY
  PYREL_TEST_CUDA=1 PYTHONSAFEPATH=1 "$PYTHON" -m pytest "${options[@]}" "${TESTS[@]}"
}

ncu_() {
  local under=(ncu --kernel-name regex:walk --launch-count 3 --set detailed)
  [[ $EMULATED ]] && under=(env)
  command -v "${under[0]}" || { echo "${under[0]} is not there"; return; }
  "${under[@]}" "$PYTHON" tools/gpu/tiny.py "${FLAGS[@]}" --profile
}

run_stage() {
  case $1 in
    versions | probes | agreement | timing) "$PYTHON" "tools/gpu/$1.py" "${FLAGS[@]}" --out "$OUT/$1.jsonl" ;;
    ncu) ncu_ ;;
    *) "$1" ;;
  esac
}

EMULATED=${EMULATED:-} OUT=${OUT:-} inside='' chosen=()
preparing='' listing=''
while (($#)); do
  case $1 in
    --emulated) EMULATED=1 ;;
    --out) OUT=${2:?--out needs a folder}; shift ;;
    --prepare) preparing=1 ;;
    --list) listing=1 ;;
    --inside) inside=${2:?}; shift ;; # this script calls itself so, under a time limit
    -h | --help) help; exit ;;
    *) [[ " ${STAGES[*]} " == *" $1:"* ]] || { echo "no stage $1" >&2; help >&2; exit 2; }; chosen+=("$1") ;;
  esac
  shift
done
[[ $listing ]] && { printf '%s\n' "${STAGES[@]/:/ }"; exit; }
if [[ $EMULATED ]]; then PYTHON=${PYTHON:-.venv/bin/python}; else PYTHON=${PYTHON:-python3}; fi
FLAGS=(${EMULATED:+--emulated})
OUT=${OUT:-build/gpu-check${EMULATED:+-emulated}} # what is emulated never lies among results of a GPU
export EMULATED OUT PYTHON
[[ $preparing ]] && { prepare; exit; }
[[ $EMULATED ]] || export PATH="$PATH:/usr/local/cuda/bin" PYTHONPATH="$PWD/$SITE:$PWD/$TOOLS"
[[ $inside ]] && { run_stage "$inside"; exit; }

mkdir -p "$OUT"
failed=0
for stage in "${STAGES[@]}"; do
  name=${stage%:*} limit=${stage#*:}
  ((${#chosen[@]} == 0)) || [[ " ${chosen[*]} " == *" $name "* ]] || continue
  [[ $EMULATED ]] && limit=$((3 * limit))
  echo "== $name (at most $limit s)"
  rm -f "$OUT/$name.jsonl" # that of another stage stays
  begin=$SECONDS status=0
  timeout --kill-after=5 "$limit" bash tools/gpu_check.sh --inside "$name" >"$OUT/$name.log" 2>&1 || status=$?
  printf '{"stage": "%s", "status": %d, "seconds": %d, "limit": %d, "emulated": %s}\n' "$name" "$status" $((SECONDS - begin)) "$limit" "$([[ $EMULATED ]] && echo true || echo false)" >>"$OUT/stages.jsonl"
  ((status == 0)) && continue
  failed=1
  ((status == 124 || status == 137)) && echo "$name: stopped at its limit of $limit s"
  tail -n 5 "$OUT/$name.log"
  [[ $name != versions ]] || exit 1 # nothing can be measured
done
"$PYTHON" tools/gpu/summary.py "$OUT" || failed=1
exit "$failed"
