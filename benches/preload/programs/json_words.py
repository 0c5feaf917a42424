# Text to objects and back: JSON, counting, sorting. Every object is a block of malloc's under PYTHONMALLOC=malloc.
import json

rows = [
    {"id": i, "name": f"item {i}", "tags": [f"tag{i % 97}", f"group{i % 13}"], "price": i * 0.25, "more": {"even": i % 2 == 0}}
    for i in range(12000)
]
total = 0
for _ in range(3):
    text = json.dumps(rows)
    back = json.loads(text)
    total += len(text) + sum(len(row["tags"]) for row in back)
counts = {}
for word in text.replace('"', " ").replace(",", " ").split():
    counts[word] = counts.get(word, 0) + 1
top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
print(total, len(counts), top)
