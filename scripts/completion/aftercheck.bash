# Completion of the `aftercheck` command for bash. Source it, or install it as
# share/bash-completion/completions/aftercheck.
# shellcheck shell=bash disable=SC2207

_aftercheck() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} subcommand='' pt='' i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == -- && $subcommand == record ]]; then
      # After `--` comes another command with its own completion, where bash-completion is there to find it.
      if declare -F _command_offset >/dev/null && ((i + 1 <= COMP_CWORD)); then
        _command_offset $((i + 1))
      elif ((i + 1 == COMP_CWORD)); then
        COMPREPLY=($(compgen -c -- "$current"))
      else
        COMPREPLY=($(compgen -f -- "$current"))
      fi
      return
    fi
    [[ $subcommand == pt && -z $pt && ${COMP_WORDS[i]} != -* ]] && pt=${COMP_WORDS[i]}
    [[ -z $subcommand && ${COMP_WORDS[i]} != -* ]] && subcommand=${COMP_WORDS[i]}
  done
  case $previous in
    --machine) COMPREPLY=($(compgen -W 'auto kvm translated soft' -- "$current")); return ;;
    --pt) COMPREPLY=($(compgen -W 'auto off soft' -- "$current")); return ;;
    --cpu) COMPREPLY=($(compgen -W 'portable v3 host' -- "$current")); return ;;
    --on-log-error) COMPREPLY=($(compgen -W 'stop run' -- "$current")); return ;;
    --on-unsupported) COMPREPLY=($(compgen -W 'stop continue' -- "$current")); return ;;
    --allow) COMPREPLY=($(compgen -W 'kill-all' -- "$current")); return ;;
    -o | --output | --store) COMPREPLY=($(compgen -d -- "$current")); return ;;
  esac
  local words
  case "$subcommand${pt:+ $pt}" in
    '') words='record replay check checkpoint info dump pt doctor --help --version' ;;
    record) words='-o --output --store --machine --pt --cpu --checkpoint-every --chaos --on-log-error --on-unsupported --allow --no-aslr --no-log -v --verbose --help --' ;;
    replay) words='--machine --untrusted --pt --from --to -q --no-output --json -v --verbose --help' ;;
    check) words='--machine --untrusted --process --file --function --site --hits --events --at --limit-failures --no-plan --check-limit --jobs --require-hits --json --html --show-output --help' ;;
    checkpoint) words='--every --machine --untrusted --list --verify --remove --json -v --verbose --help' ;;
    info) words='--json --verbose --help' ;;
    dump) words='--json --symbols --verbose --from --to --limit --help' ;;
    pt) words='digest dump flow plan synth --help' ;;
    'pt flow') words='--image --pages --cpu --filter --bits --noretcomp --pid --symfs --branches --limit --stats --lcov --folded --chrome --chrome-limit --replay --machine --untrusted -q --quiet --json --help' ;;
    'pt plan') words='--to --event --stream --most-blocks --image --pages --cpu --filter --bits --noretcomp --pid --symfs --json --help' ;;
    'pt digest') words='--totals --cpu --json --help' ;;
    'pt dump') words='--kind --from --to --limit --cpu --json --help' ;;
    'pt synth') words='--force --json -v --verbose --help' ;;
    doctor) words='--json --help' ;;
    *) words='--help' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case $subcommand in
    replay | check | checkpoint | info | dump) [[ $current == -* ]] || COMPREPLY+=($(compgen -d -- "$current")) ;;
    pt) [[ -z $pt || $current == -* ]] || COMPREPLY+=($(compgen -f -- "$current")) ;;
  esac
}
complete -o filenames -F _aftercheck aftercheck
