"""One system in a process of its own: prepares it and measures when asked, by lines of JSON.

    stdin   {"system": …}                                 the fields of peers.Job, once
    stdout  {"weight_bytes": …, "note": …}                ready; or {"unavailable": why} and the end
    stdin   {"prompt": 128, "new": 48, "vocab": …, "seed": …}
    stdout  {"prefill_s": …, "decode_s": …, "first": …}   and so on until stdin ends

In between it waits for its next line, so that it takes nothing from the others. A failure ends it with a traceback.
"""

import json
import os
import random
import sys
import time
from typing import Any, TextIO

from peers import Generate, Job, Unavailable, load


def private_stdout() -> TextIO:
    """The pipe to the parent; what systems print goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def measure(generate: Generate, *, prompt: int, new: int, vocab: int, seed: int) -> dict[str, float]:
    """Seconds until the first token after a random prompt, that token, and the seconds of `new` more."""
    choose = random.Random(seed)
    ids = [choose.randrange(3, vocab) for _ in range(prompt)]
    ticks: list[tuple[float, Any]] = []
    start = time.perf_counter()
    generate(ids, new + 1, lambda token: ticks.append((time.perf_counter(), token)))
    if len(ticks) != new + 1:
        raise RuntimeError(f"{len(ticks)} tokens instead of {new + 1}")
    (first, token), (last, _) = ticks[0], ticks[-1]
    return {"prefill_s": first - start, "decode_s": last - first, "first": int(token)}


def main() -> None:
    replies = private_stdout()

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        peer = load(Job(**json.loads(sys.stdin.readline())))
    except Unavailable as error:
        return reply({"unavailable": " ".join(str(error).split())})
    reply({"weight_bytes": peer.weight_bytes, "note": peer.note})
    for line in sys.stdin:
        reply(measure(peer.generate, **json.loads(line)))
    return None


if __name__ == "__main__":
    main()
