# Words, arrays, functions and subshells.
count() { local -A seen=(); local w; for w in "$@"; do seen[$w]=$((${seen[$w]:-0} + 1)); done; echo "${#seen[@]}"; }
words=()
for ((i = 0; i < 12000; i++)); do words+=("w$((i * 7919 % 2003))x${i:0:2}"); done
count "${words[@]}"
text="${words[*]}"
for ((i = 0; i < 8; i++)); do text="${text//w$i/<$i>}"; done
for ((i = 0; i < 60; i++)); do sum=$(echo "${words[i]}" | wc -c); done
echo "${#text} $sum"
for ((i = 0; i < 25000; i++)); do s="${words[i % 12000]}${i}"; t="${s^^}"; done
echo "$t"
