"""Times the same files here and through SSH in turns; prints the least of each and their ratio.

python experiments/ssh/in_turns.py HOST PORT KEY KNOWN_HOSTS PYTHON
"""

import sys
from random import Random

from spaceevo.platforms.measuring import ThisMachine
from spaceevo.platforms.remote import OtherMachine
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.space.description import parse_space
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import subnet_blocks

TURNS = 6
SUBNETS = 10
host, port, key, known_hosts, python = sys.argv[1:]
places = {
    "here": ThisMachine(),
    "ssh": OtherMachine(host, port=int(port), key=key, known_hosts=known_hosts, python=python),
}
runtime, member, rng = runtime_named("onnxruntime"), parse_space("digits-012-010"), Random(0)
specs = [member.smallest, member.largest, *(sample_subnet(member, rng) for _ in range(SUBNETS - 2))]
files = {str(n): runtime.write(random_program(subnet_blocks(member, spec))) for n, spec in enumerate(specs)}
least: dict[str, dict[str, float]] = {name: {} for name in places}
for _ in range(TURNS):
    for name, place in places.items():
        for file, timing in place.time_models(runtime, files, 10).items():
            least[name][file] = min(timing.latency_ms, least[name].get(file, timing.latency_ms))
for file, spec in zip(files, specs, strict=True):
    here, there = least["here"][file], least["ssh"][file]
    print(f"{here:.4f} ms here, {there:.4f} ms by SSH, ratio {there / here:.3f}  {spec}")
ratios = [least["ssh"][file] / least["here"][file] for file in files]
print(f"mean ratio {sum(ratios) / len(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
