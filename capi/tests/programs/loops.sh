# Loops, arrays, functions, here-documents, subshells, pipes, jobs and signals.
set -u
count() { local -A seen=(); local w; for w in "$@"; do seen[$w]=$((${seen[$w]:-0} + 1)); done; echo "${#seen[@]}"; }
words=()
for ((i = 0; i < 3000; i++)); do words+=("w$((i * 7919 % 503))x${i:0:2}"); done
count "${words[@]}"
text="${words[*]}"
for ((i = 0; i < 10; i++)); do text="${text//w$i/<$i>}"; done
echo "${#text} ${text:100:60}"
for ((i = 0; i < 40; i++)); do sum=$(echo "${words[i]}" | wc -c); (exit $((i % 3))) || sum=$((sum + $?)); done
echo "$sum"
fib() { (($1 < 2)) && echo "$1" || echo $(($(fib $(($1 - 1))) + $(fib $(($1 - 2))))); }
fib 8
for i in 1 2 3 4; do (for ((j = 0; j < 2000; j++)); do s="$i$j${s:-}"; s="${s:0:200}"; done; echo "$i ${s:0:20}" >"job$i") & done
wait
cat job1 job2 job3 job4
trap 'echo caught' USR1
for i in 1 2 3; do kill -USR1 $$; done
cat <<END | sort -r | tr a-z A-Z
$(for ((i = 0; i < 50; i++)); do echo "line $i ${words[i]}"; done)
END
coproc cat; echo through >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
mapfile -t lines < <(seq 1 5000); echo "${#lines[@]} ${lines[4999]}"
printf '%s\n' {a..e}{1..3} | while read -r each; do eval "v_$each=\$each"; done; echo done
