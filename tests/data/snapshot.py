# A small snapshot as PyTorch's _dump_snapshot writes them: protocol 4, shared stacks, a ring that begins in the middle.
import gzip, pickle, random
random.seed(7)
MIB = 1 << 20
frames = [{"filename": "train.py", "line": n, "name": "forward"} for n in range(20)]
base, trace, live, at = 0x7F0000000000, [], {}, 0
def e(action, addr, size): trace.append({"action": action, "addr": addr, "size": size, "stream": 0, "time_us": len(trace) * 11, "frames": frames[: random.randrange(20)]})
slots = [base + i * 20 * MIB for i in range(40)]
before = {slots[0]: 3 * MIB, slots[1]: 19 * MIB}
used = dict(before)
segs = {slots[0]: 20 * MIB, slots[1]: 20 * MIB}
for step in range(4000):
    free = [s for s in slots if s not in used]
    if free and (random.random() < 0.5 or len(used) < 3):
        s = random.choice(free[:12]); n = random.choice([512, 4096, 70000, 3 * MIB, 7 * MIB, 19 * MIB])
        if s not in segs: segs[s] = 20 * MIB; e("segment_alloc", s, 20 * MIB)
        used[s] = n; e("alloc", s, n)
    else:
        s = random.choice([s for s in used if s != slots[0]] or [slots[0]]); n = used.pop(s)
        e("free_requested", s, n); e("free_completed", s, n)
segments = []
for s, total in sorted(segs.items()):
    n = used.get(s)
    blocks = [{"address": s, "size": total, "requested_size": n or 0, "state": "active_allocated" if n else "inactive", "frames": frames[:5]}]
    segments.append({"device": 0, "address": s, "total_size": total, "allocated_size": n or 0, "active_size": n or 0, "requested_size": n or 0, "stream": 0, "segment_type": "large", "segment_pool_id": (0, 0), "is_expandable": False, "frames": frames[:3], "blocks": blocks})
snapshot = {"segments": segments, "device_traces": [trace, []], "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "garbage_collection_threshold": 0.0, "expandable_segments": False, "roundup_power2_divisions": {"1": 0, ">": 0}}, "external_annotations": []}
gzip.GzipFile("snapshot.pickle.gz", "wb", mtime=0).write(pickle.dumps(snapshot, protocol=4))
