"""Writes the files beside this one: python make.py (with torch; 2.15 wrote those that are kept)."""

import pathlib
import sys

import torch

here = pathlib.Path(__file__).parent
sys.path.append(str(here.parent.parent / "tools"))
import listing


def save(name, value, **how):
    torch.save(value, here / name, **how)
    (here / (name + ".txt")).write_text("".join(line + "\n" for line in sorted(listing.flat(value))))


torch.manual_seed(1)
linear = torch.nn.Linear(4, 3)
optimizer = torch.optim.Adam(linear.parameters())
linear(torch.ones(1, 4)).sum().backward()
optimizer.step()
nested = {
    "model": linear.state_dict(), "optim": optimizer.state_dict(), "epoch": 3, "loss": 0.25, "done": False,
    "note": "grüße", "layers": [torch.arange(3), (torch.tensor(7, dtype=torch.int8),)],
}
save("nested.pt", nested)
save("nested_legacy.pt", nested, _use_new_zipfile_serialization=False)
base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
save("views.pt", {"base": base, "turned": base.t(), "cut": base[1:3, 2:5], "step": base[:, ::2], "one": base[3, 5]})
save("views_legacy.pt", {"base": base, "turned": base.t(), "cut": base[1:3, 2:5]}, _use_new_zipfile_serialization=False)
save("bare.pt", torch.arange(6.0).reshape(2, 3).t())
save("bare_legacy.pt", torch.arange(6.0).reshape(2, 3).t(), _use_new_zipfile_serialization=False)
numbers = torch.tensor([0.0, 1.0, -2.5, 0.375, 100.0])
names = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2"
dtypes = {name: numbers.abs().to(getattr(torch, name)) for name in names.split()}
dtypes["bool"] = torch.tensor([[True, False], [False, True]])
dtypes["empty"] = torch.zeros(0, 3)
dtypes["scalar"] = torch.tensor(2.5, dtype=torch.float64)
save("dtypes.pt", dtypes)
save("dtypes_protocol4.pt", dtypes, pickle_protocol=4)
save("parameter.pt", {"p": torch.nn.Parameter(torch.ones(2, 2)), "b": torch.nn.Buffer(torch.zeros(1))})


class Trap:
    def __reduce__(self):
        return (print, ("this code must never run",))


torch.save({"w": torch.ones(1), "trap": Trap()}, here / "trap.pt")
