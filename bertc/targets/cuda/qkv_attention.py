"""Query, key and value in one kernel with the attention that reads them, by clusters that have a head of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertc.attended import attended
from bertc.graph import UNUSED, Node
from bertc.kernels.hopper import DEPTH
from bertc.kernels.qkv_attention import PARTS, ROWS, SIZE, cluster, shared_bytes, warps
from bertc.targets.cuda import folding
from bertc.targets.cuda.attention import is_given, lengths_of
from bertc.targets.cuda.hopper import SHARED_MEMORY, weight_and_bias
from bertc.targets.cuda.plan import Place, Size, Tiles

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering
    from bertc.targets.cuda.products import Linear


def reader(lowering: Lowering, node: Node) -> Node | None:
    """The attention that a qkv_projection takes along: what alone reads all of its results, with no mask but lengths
    that no kernel computes."""
    graph, x, heads = lowering.graph, node.values[0], node.attribute("heads")
    if not lowering.joined or UNUSED in node.results or any(map(graph.is_output, node.results)):
        return None
    readers = {reader.key: reader for result in node.results for reader in graph.users(result)}
    found = next(iter(readers.values()), node)
    if len(readers) != 1 or found.op not in ("attention", "packed_attention") or found.values[:3] != node.results:
        return None
    of = attended(graph, found)
    is_plain = of.bias is None and of.window == 0 and found.attribute("scale") > 0
    fits = node.attribute("size") == SIZE and stages(int(lowering.shape(x)[-1])) > 0
    fits = fits and folding.fits(lowering, x, PARTS * heads * SIZE)
    return found if is_plain and fits and is_given(graph, of.starts) and is_given(graph, of.lengths) else None


def stages(width: int) -> int:
    """Places in shared memory for boxes of the weight, beside rows of x; 0 where these are too wide, or no boxes."""
    count = width // DEPTH
    there = [places for places in range(count + 1) if shared_bytes({"K": width, "STAGES": places}) <= SHARED_MEMORY]
    return max(there) if there and count <= 2 * max(there) and width % DEPTH == 0 else 0


def qkv_attention(lowering: Lowering, projection: Linear, node: Node) -> None:
    """A step: the attention of a projection's columns."""
    x, folded, of = projection.x, projection.norm, attended(lowering.graph, node)
    w, bias = weight_and_bias(lowering, projection)
    context = lowering.buffer(node.key)
    given: dict[str, Any] = {"ELEMENT": lowering.element, "K": x.width, "STAGES": stages(x.width)}
    given |= {"HEADS": projection.n // (PARTS * SIZE), "SCALE": node.attribute("scale")}
    given |= {"PACKED": of.starts is not None, "HAS_LENGTHS": of.lengths is not None}
    given |= {"X_NORM": folded is not None, "X_EPS": folded.eps if folded else 0.0}
    given["x"] = Tiles(Place(x.buffer, x.offset), projection.rows, x.width, x.row, (ROWS, DEPTH))
    given["w"] = Tiles(w, Size(projection.n), x.width, Size(x.width), (SIZE, DEPTH))
    given |= {"bias": bias, "x_moments": folded.moments if folded else bias, "context": context}
    given["starts"] = lowering.layout(of.starts).place if of.starts else context
    given["lengths"] = lengths_of(lowering, of.lengths) if of.lengths else context
    given |= {"seq": Size(1, ("seq",)), "rows": projection.rows}
    grid = [Size(cluster(given) * given["HEADS"]), Size(1, ("batch",))]
    launch = lowering.launch("qkv_attention", "qkv_attention", grid, warps(given), [context.name], **given)
    lowering.step(node.key, [launch])
