# Small objects with links between them: trees, a queue, strings that grow.
from collections import deque


class Node:
    __slots__ = ("left", "right", "value")

    def __init__(self, left, right, value):
        self.left, self.right, self.value = left, right, value


def tree(depth, value):
    if depth == 0:
        return Node(None, None, value)
    return Node(tree(depth - 1, value * 2), tree(depth - 1, value * 2 + 1), value)


def total(node):
    return 0 if node is None else node.value + total(node.left) + total(node.right)


kept = tree(14, 1)
print(sum(total(tree(10, i)) for i in range(60)), total(kept))
queue = deque()
for i in range(150_000):
    queue.append((i, str(i), [i]))
    if len(queue) > 5000:
        queue.popleft()
lines = []
for i in range(60_000):
    lines.append("line %d of %s" % (i, "x" * (i % 200)))
print(len(queue), len("".join(sorted(lines))))
