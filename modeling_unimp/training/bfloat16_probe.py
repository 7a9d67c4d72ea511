"""Whether a CPU gains from bfloat16, measured where it trains: with AMX it multiplies matrices several times as fast,
without it may lose, and small matrices gain nothing either way (benchmarks/LOG.md)."""

import time

import torch

MIN_WIDTH = 256  # of a language model; below it a step gains nothing, whatever the CPU has
MIN_TIMES = 1.5  # by which products are faster where steps are, too
_ROWS = 256
_ROUNDS = 3


def bfloat16_advice(width: int) -> str | None:
    """What to tell who trains in float32 on a CPU; `None` where bfloat16 would gain nothing.

    Args:
        width (`int`): of the language model.
    """
    if width < MIN_WIDTH or (times := times_faster_in_bfloat16(width)) < MIN_TIMES:
        return None
    return (
        f"this CPU computes layers of width {width} {times:.1f} times as fast in bfloat16: --bf16 true trains faster, "
        "and the weights stay float32."
    )


def times_faster_in_bfloat16(width: int) -> float:
    """How many times as fast as in float32 a feed-forward layer is under autocast, forward and backward; it takes a
    tenth of a second at width 512."""
    with torch.random.fork_rng(devices=[]):  # the training draws what it drew without the probe
        wide, narrow = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        inputs = torch.randn(_ROWS, width)
    layer = torch.nn.Sequential(wide, torch.nn.GELU(), narrow)

    def step(is_mixed: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            outputs = layer(inputs)
        outputs.float().sum().backward()

    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS + 1):
        for is_mixed, seconds in times.items():
            begun = time.perf_counter()
            step(is_mixed)
            seconds.append(time.perf_counter() - begun)
    return min(times[False][1:]) / min(times[True][1:])
