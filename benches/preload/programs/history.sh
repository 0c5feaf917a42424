# A repository with a history, packed, read back. The folder is made and removed here.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q -b main
for ((round = 1; round <= 10; round++)); do
    for ((file = 0; file < 20; file++)); do
        for ((line = 0; line < 60; line++)); do echo "line $((line * round % 17)) of $file"; done >"f$file"
    done
    git add -A && git commit -q -m "round $round"
done
git -c gc.autoDetach=false -c pack.threads=1 gc -q --aggressive
git log -p --stat | tail -n 60
git fsck --no-progress
