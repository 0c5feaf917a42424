# JSON, dictionaries, sorting, big integers, threads, children, a garbage collection, a module in C, an exception.
import collections, gc, hashlib, json, os, re, struct, subprocess, sys, threading, zlib

rows = [{"id": i, "name": f"item {i}", "tags": [f"t{i % 97}", "é" * (i % 5)], "price": i * 0.25} for i in range(4000)]
text = json.dumps(rows, ensure_ascii=False)
assert json.loads(text) == rows
print(len(text), hashlib.sha256(text.encode()).hexdigest(), zlib.crc32(zlib.compress(text.encode())))
print(collections.Counter(re.findall(r"[a-z]+\d*", text)).most_common(4))
print(len(hex(3**20000)), sum(struct.unpack("<1000d", struct.pack("<1000d", *range(1000)))))


class Node:
    def __init__(self, other):
        self.other, self.data = other, bytearray(1000)


for _ in range(3000):
    a = Node(None)
    a.other = Node(a)
a = None
print(gc.collect() > 0)

results = {}


def work(number):
    words = {}
    for i in range(6000):
        words[f"{number}-{i * 7919 % 1009}"] = [i] * (i % 30)
    results[number] = (len(words), sum(map(len, words.values())))


for _ in range(3):
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
print(sorted(results.items()))
for n in range(6):
    done = subprocess.run([sys.executable, "-c", f"print(sum(range({n} * 1000)))"], capture_output=True, text=True)
    print(done.returncode, done.stdout.strip(), done.stderr)
children = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        os._exit(len(json.dumps(rows)) % 50 + n)
    children.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
data = bytearray()
for i in range(2000):
    data += bytes([i % 256]) * i
print(len(data), zlib.crc32(data), sys.getsizeof([0] * 100000))
try:
    bytearray(1 << 60)
except MemoryError:
    print("MemoryError")
