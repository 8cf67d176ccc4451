#!/usr/bin/env bash
# Builds, tests and measures the CUDA backend on a machine with a GPU, stage by stage, and merges what was found.
#
#   bench/gpu.sh [-o DIR] [-c COMMIT] [-m DIR] STAGE...
#
#   build     make cuda, build/bench_gpu                steps     tok/s and memory, Llama-3-8B and Qwen3-8B shapes
#   test      build/test_cuda                           latency   a job joins; an adapter is swapped
#   sanitize  memcheck and racecheck on small cases     bits      isolation on 8B shapes
#   gemm      what back-to-back GEMMs sustain           memory    estimates against the driver; refusal
#   ops       every op beside the copy and GEMM rates   profile   the share of each op in a step
#   peers     PEFT, torch.compile, mLoRA's way          peft      loss and gradients against PEFT
#   curve     200 steps against the CPU backend         service   the demo and tests/isolation on this GPU, with Deno
#   report    merges only
#   steps-llama, steps-qwen: one of the two;            all: everything
#
# -o  where gpu.json, gpu.md and gpu.log go (default $OUT, else bench/results); the gpu.json of bench/results is the start, so
#     stages that did not run keep their older figures, with their own date and commit
# -c  the commit measured (default: git's)
# -m  where the random models go (default: memory if it has room, else the temporary folder)
#
# Environment: PYTHON, DENO, MAKE_JOBS, STEPS (timed steps), SANITIZE_FILTER (parts of tests' names), GEMM and PEERS (options
# of bench_gemm and peers.py), LIMIT_<STAGE> (seconds). Every stage has a time limit, writes its own file
# first, and may fail without stopping the next; the exit status is 1 when one did.
set -u
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kernels=$(dirname "$bench")
build=$kernels/build
python=${PYTHON:-python3}
out=${OUT:-$bench/results} commit= models=
while getopts o:c:m: option; do
  case $option in
    o) out=$OPTARG ;;
    c) commit=$OPTARG ;;
    m) models=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,25s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$*" = all ] && set -- build test gemm ops profile steps latency bits memory peers peft curve service sanitize

work=$build/gpu
mkdir -p "$work" "$out"
[ -n "$commit" ] || commit=$(git -C "$kernels" rev-parse --short HEAD 2>/dev/null || echo unknown)
device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
# KiB free where the models go; one of 8B takes 16 GiB.
room() { df --output=avail -k "$1" 2>/dev/null | tail -n 1; }
need=17500000
if [ -z "$models" ]; then
  models=/dev/shm
  ls -d /dev/shm/tlora-*/complete > /dev/null 2>&1 || [ "$(room /dev/shm)" -gt $need ] 2> /dev/null || models=${TMPDIR:-/tmp}
fi
failed=0

report() {
  "$python" "$bench/report.py" --base "$bench/results/gpu.json" --work "$work" --out "$out" || failed=1
  cat "$work"/*.log > "$out/gpu.log" 2>/dev/null
}

# stage NAME SECONDS COMMAND...: the command's output goes to NAME.log, and what it is to be remembered by to NAME.meta.
# The command leaves its findings in NAME.json, or report.py reads them from the log.
begin() { rm -f "$work/$1.json" "$work/$1.meta" "$work/$1.log"; }
finish() {  # NAME STATUS SECONDS
  printf '{"date": "%s", "commit": "%s", "device": "%s", "driver": "%s", "status": %d, "seconds": %d}\n' \
    "$(date -u +%Y-%m-%dT%H:%MZ)" "$commit" "${device:-none}" "${driver:-none}" "$2" "$3" > "$work/$1.meta"
}
stage() {
  local name=$1 limit=$2 key start status
  shift 2
  key=LIMIT_$(echo "$name" | tr 'a-z-' 'A-Z_')
  begin "$name"
  echo "== $name" >&2
  start=$SECONDS
  PYTHONUNBUFFERED=1 timeout -k 5 "${!key:-$limit}" "$@" > "$work/$name.log" 2>&1
  status=$?
  finish "$name" $status $((SECONDS - start))
  tail -n "${TAIL:-12}" "$work/$name.log" >&2
  echo "== $name: status $status, $((SECONDS - start)) s" >&2
  [ $status = 0 ] || failed=1
  report
  return $status
}

model() {  # SHAPE: writes the random model when it is not there
  [ -f "$models/tlora-$1/complete" ] && return
  local start=$SECONDS
  [ "$(room "$models")" -gt $need ] || rm -rf "$models"/tlora-*
  "$python" "$bench/random_model.py" "$1" "$models/tlora-$1" && touch "$models/tlora-$1/complete"
  echo "== random $1 in $((SECONDS - start)) s" >&2
}

bench_llama() {  # stages of one process: the model is opened once
  local list=$1 limit=0 name key start status tflops
  for name in ${list//,/ }; do
    case $name in steps) key=LIMIT_STEPS; limit=$((limit + ${!key:-150})) ;; latency) limit=$((limit + 60)) ;; *) limit=$((limit + 150)) ;; esac
    [ "$name" = steps ] && begin steps-llama3-8b || begin "$name"
  done
  model llama3-8b || return
  tflops=$("$python" "$bench/report.py" --base "$bench/results/gpu.json" --work "$work" --sustained)
  echo "== $list (limit ${limit} s, GEMMs sustain $tflops TFLOP/s)" >&2
  start=$SECONDS
  timeout -k 5 $limit "$build/bench_gpu" "$list" --model "$models/tlora-llama3-8b" --name llama3-8b --out "$work" \
    --sustained-tflops "$tflops" --steps "${STEPS:-6}" 2> >(tee "$work/bench_gpu.log" >&2)
  status=$?
  for name in ${list//,/ }; do
    [ "$name" = steps ] && name=steps-llama3-8b
    finish "$name" $([ -f "$work/$name.json" ] && echo 0 || echo $status) $((SECONDS - start))
  done
  [ $status = 0 ] || failed=1
  report
}

bench_qwen() {
  model qwen3-8b || return
  stage steps-qwen3-8b 120 "$build/bench_gpu" steps --model "$models/tlora-qwen3-8b" --name qwen3-8b --out "$work" --steps "${STEPS:-6}" \
    --configs "8 mixed,of 2048" --sustained-tflops "$("$python" "$bench/report.py" --base "$bench/results/gpu.json" --work "$work" --sustained)"
}

chats() { "$python" "$bench/curve_tokens.py" > "$work/tokens.txt"; }

profile() {  # the share of each op in a step
  model llama3-8b || return
  TLORA_CUDA_PROFILE=$work/profile.json stage profile 90 "$build/bench_gpu" steps --model "$models/tlora-llama3-8b" --name profiled --out "$work" --steps 3 \
    --warmup 1 --configs "8 mixed"
  rm -f "$work/steps-profiled.json"
}

sanitize() {  # TOOL
  local tool
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
  # The small cases of every family of kernels.
  stage "sanitize-$1" 300 "${tool:-compute-sanitizer}" --tool "$1" --error-exitcode 9 "$build/test_cuda" \
    ${SANITIZE_FILTER:-cuda_embed cuda_rmsnorm_rows cuda_rope_seq cuda_swiglu cuda_cross_entropy_inf cuda_adamw_slots cuda_adapter_init \
      gemm_shapes_small gemm_strips_small gemm_isolation_small attention_odd attention_d128_gqa_4 lora_odd lora_two lora_repeats lora_parts \
      gated_backward_few gated_backward_beside \
      backend_gated_small}
}

llama=
for name in "$@"; do
  case $name in
    steps | steps-llama) llama=$llama,steps ;;
    latency | bits | memory) llama=$llama,$name ;;
  esac
done
# bits closes the model and memory opens its own: they come last.
ordered=
for name in steps latency bits memory; do case $llama, in *,$name,*) ordered=${ordered:+$ordered,}$name ;; esac; done
for name in "$@"; do
  case $name in
    build) stage build 560 make -s -C "$kernels" -j"${MAKE_JOBS:-$(nproc)}" build/libtlora.so cuda build/bench_gpu || break ;;
    test) stage test 240 sh -c "cd '$kernels/tests' && '$build/test_cuda'" ;;
    sanitize)
      sanitize memcheck
      sanitize racecheck ;;
    ops) stage ops 90 "$build/bench_cuda_ops" ${OPS:---quick} --json "$work/ops.json" ;;
    profile) profile ;;
    gemm) stage gemm 90 "$build/bench_gemm" ${GEMM:---quick} --json "$work/gemm.json" ;;
    steps | steps-llama | latency | bits | memory)
      [ -z "$ordered" ] || bench_llama "$ordered"
      ordered=
      [ "$name" = steps ] && bench_qwen ;;
    steps-qwen) bench_qwen ;;
    peers) stage peers 540 "$python" "$bench/peers.py" --quick --out "$work/peers.json" ${PEERS:-} ;;
    peft)
      chats
      stage peft 180 "$python" "$bench/compare_peft.py" --library "$build/libtlora.so" --chats "$work/tokens.txt" --out "$work/peft.json" ;;
    service)
      tests=$(cd "$kernels/.." && pwd)/tests
      stage demo 240 "${DENO:-deno}" run --cached-only -A "$tests/demo/main.ts" --device cuda:0
      stage isolation 300 "${DENO:-deno}" run --cached-only -A "$tests/isolation/verify.ts" --device cuda:0 ;;
    curve)
      chats
      stage curve 90 "$build/bench_gpu" curve --model "$kernels/../tests/demo/base-model" --tokens "$work/tokens.txt" --out "$work" ;;
    report) report ;;
    *) echo "unknown stage: $name" >&2; exit 2 ;;
  esac
done
cat "$out/gpu.md" 2>/dev/null
exit $failed
