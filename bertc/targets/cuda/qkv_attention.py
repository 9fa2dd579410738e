"""Query, key and value in one kernel with the attention that reads them, by clusters that have a head of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertc.attended import attended
from bertc.graph import UNUSED, Graph, Node
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
    """The attention that a qkv_projection takes along, which alone reads its results."""
    graph = lowering.graph
    results = [result for result in node.results if result != UNUSED]
    readers = {user.key: user for result in results for user in graph.users(result)}
    is_inside = len(readers) == 1 and not any(map(graph.is_output, results))
    if not (lowering.joined and is_inside and _fits(lowering, node)):
        return None
    (found,) = readers.values()
    return found if found.values[:3] == node.results and _is_plain(graph, found) else None


def _fits(lowering: Lowering, node: Node) -> bool:
    """Whether the kernel has room for a projection, and its product may be one that takes norms along."""
    x, heads, size = node.values[0], node.attribute("heads"), node.attribute("size")
    return size == SIZE and stages(int(lowering.shape(x)[-1])) > 0 and folding.fits(lowering, x, PARTS * heads * SIZE)


def _is_plain(graph: Graph, node: Node) -> bool:
    """Whether a node is attention with no mask but lengths, which no kernel computes. The largest score is found before
    scores are scaled, so that the scale has to be above 0."""
    if node.op not in ("attention", "packed_attention") or node.attribute("scale") <= 0:
        return False
    of = attended(graph, node)
    is_masked = of.lengths is None or of.bias is not None or of.window > 0
    return not is_masked and is_given(graph, of.starts) and is_given(graph, of.lengths)


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
    given |= {"PACKED": of.starts is not None, "X_NORM": folded is not None, "X_EPS": folded.eps if folded else 0.0}
    given["x"] = Tiles(Place(x.buffer, x.offset), projection.rows, x.width, x.row, (ROWS, DEPTH))
    given["w"] = Tiles(w, Size(projection.n), x.width, Size(x.width), (SIZE, DEPTH))
    given |= {"bias": bias, "x_moments": folded.moments if folded else bias, "context": context}
    given["starts"] = lowering.layout(of.starts).place if of.starts else context
    assert of.lengths is not None  # see _is_plain
    given["lengths"] = lengths_of(lowering, of.lengths)
    given |= {"seq": Size(1, ("seq",)), "rows": projection.rows}
    grid = [Size(cluster(given) * given["HEADS"]), Size(1, ("batch",))]
    launch = lowering.launch("qkv_attention", "qkv_attention", grid, warps(given), [context.name], **given)
    lowering.step(node.key, [launch])
