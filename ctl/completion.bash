# Completion of pangaea(1) for bash: eval "$(pangaea completion bash)"
_pangaea() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=() w i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in -*) ;; *) words+=("${COMP_WORDS[i]}") ;; esac
  done
  case $prev in
    --node|--agent|--to|--from) w=$(pangaea node ls -q 2>/dev/null) ;;
    --kernel|--initrd|--disk|--file|-f|--restore|--home|--out|-o|--output|--system-map)
      mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    *)
      case "${words[0]} ${words[1]}" in
        ' ') w='node vm pvm events init version completion help' ;;
        'node ') w='ls info doctor drain' ;;
        'vm ') w='run ls info console start stop kill migrate spread consolidate checkpoint restore pause resume reset stats heatmap registers' ;;
        'pvm ') w='up run status console down' ;;
        'init ') w='cluster key' ;;
        'completion ') w='bash' ;;
        'node info'|'node doctor'|'node drain') w=$(pangaea node ls -q 2>/dev/null) ;;
        'vm info'|'vm console'|'vm start'|'vm stop'|'vm kill'|'vm migrate'|'vm spread'|'vm consolidate'|'vm checkpoint'|'vm pause'|'vm resume'|'vm reset'|'vm stats'|'vm heatmap'|'vm registers')
          w=$(pangaea vm ls -q 2>/dev/null) ;;
        *) w='' ;;
      esac
      case $cur in
        -*)
          w='--json --help --home --agent --timeout --quiet'
          case "${words[0]} ${words[1]}" in
            'vm run') w+=' --kernel --initrd --cmdline --disk --vcpus --memory --nic --node --file --restore --gdb --overcommit --console --encrypt --transport --together' ;;
            'node drain') w+=' --max-downtime --bandwidth --channels --encrypt --overcommit' ;;
            'vm checkpoint') w+=' --live --node' ;;
            'vm restore') w+=' --node --overcommit' ;;
            'vm console') w+=' --node --escape --until' ;;
            'vm migrate') w+=' --node --to --mode --max-downtime --bandwidth --channels --encrypt --with-disk --force --cancel --resume --postcopy-after' ;;
            'vm spread') w+=' --node --vcpus --overcommit' ;;
            'vm consolidate') w+=' --node --to --from --bandwidth --overcommit --max-downtime' ;;
            'vm stats') w+=' --node --watch --interval --system-map' ;;
            'vm heatmap') w+=' --output --seconds' ;;
            'vm '*) w+=' --node' ;;
            'pvm run') w+=' --vms --tasks' ;;
            'pvm '*) w+=' --vms' ;;
            'events '*) w+=' --node --follow' ;;
            'init '*) w+=' --nodes --file --out --name' ;;
          esac ;;
      esac ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$w" -- "$cur")
}
complete -F _pangaea pangaea
