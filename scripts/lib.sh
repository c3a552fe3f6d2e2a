# Shared by the scripts in this folder: source it, do not run it.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
JOBS=${JOBS:-$(nproc)}

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' DIM=$'\e[2m' PLAIN=$'\e[0m'
else
  BOLD='' RED='' GREEN='' DIM='' PLAIN=''
fi
# shellcheck disable=SC2034  # for the scripts that source this file
readonly ROOT BOLD RED GREEN DIM PLAIN

STEP_NAMES=()    # in the order they ran
STEP_TIMES=()    # seconds, with decimals
FAILED_STEPS=()

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
seconds_since() { local ms=$(($(now_ms) - $1)); printf '%d.%02d' $((ms / 1000)) $((ms % 1000 / 10)); }
warn() { printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$*" "$PLAIN" >&2; }
die() { warn "$@"; exit 2; }

# help_text FILE: the comment block that follows the first line of a script is its help.
help_text() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# step NAME COMMAND...: runs the command between a heading and a line with its time. Returns the command's status;
# a failure is also noted in FAILED_STEPS.
step() {
  local name=$1 start status=0 took
  shift
  printf '%s== %s%s\n' "$BOLD" "$name" "$PLAIN"
  start=$(now_ms)
  "$@" || status=$?
  took=$(seconds_since "$start")
  STEP_NAMES+=("$name")
  STEP_TIMES+=("$took")
  if ((status == 0)); then
    printf '%s== %s: %s s%s\n' "$GREEN" "$name" "$took" "$PLAIN"
  else
    FAILED_STEPS+=("$name")
    printf '%s== %s: FAILED (status %d) after %s s%s\n' "$RED" "$name" "$status" "$took" "$PLAIN"
  fi
  return "$status"
}

# print_step_times: the table of all steps so far.
print_step_times() {
  local i
  printf '%sHow long each step took%s\n' "$BOLD" "$PLAIN"
  for i in "${!STEP_NAMES[@]}"; do printf '  %8s s  %s\n' "${STEP_TIMES[$i]}" "${STEP_NAMES[$i]}"; done
}

# build_preset PRESET [TARGET...]: configures and builds, and shows the build's output only where it failed or warned.
build_preset() {
  local preset=$1 log
  shift
  mkdir -p "$ROOT/build"
  log=$ROOT/build/$preset.log
  local targets=()
  (($#)) && targets=(--target "$@")
  if (cd "$ROOT" && cmake --preset "$preset" && cmake --build --preset "$preset" --parallel "$JOBS" "${targets[@]}") \
    >"$log" 2>&1 </dev/null; then
    if grep -E 'warning:' "$log"; then :; fi
  else
    grep -E -A12 '(error|FAILED|Error)' "$log" | head -n 80 || true
    tail -n 5 "$log"
    warn "building preset $preset failed; the whole log is ${log#"$ROOT"/}"
    return 1
  fi
}

# kvm_works: /dev/kvm can be opened and answers. A machine may have the file but forbid it.
kvm_works() { [[ -r /dev/kvm && -w /dev/kvm ]] && (exec 9<>/dev/kvm) 2>/dev/null; }

# as_root COMMAND...: through sudo where we are not root; status 127 where there is none.
as_root() {
  if ((EUID == 0)); then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 127; fi
}

# apt COMMAND...: apt-get that never asks, and waits for another one that runs.
apt() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
    apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# tracked_files PATTERN...: null-separated names of files in the repository, or in the tree where it is no clone.
tracked_files() {
  local pattern match=()
  git -C "$ROOT" ls-files -z -- "$@" 2>/dev/null && return
  for pattern in "$@"; do match+=(-o -path "./$pattern" -o -path "./$pattern/*" -o -name "$pattern"); done
  (cd "$ROOT" && find . -name build -prune -o -type f \( "${match[@]:1}" \) -print0)
}
