"""Attention, masks and turned places; masks become memory only where a kernel has to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bertc.attended import attended
from bertc.graph import INPUT, Graph, Node
from bertc.kernels import attention_specialised
from bertc.ops import rotary_factors
from bertc.passes.pack_sequences import counts_tokens
from bertc.targets.cuda.compile_kernels import HOPPER
from bertc.targets.cuda.elementwise import blocks, fixed, number, pointwise, power, strides
from bertc.targets.cuda.hopper import FEW, MULTIPROCESSORS
from bertc.targets.cuda.plan import Launch, Place, Size, Tiles
from bertc.targets.cuda.views import ZERO, Layout, View, contiguous, product, with_axes

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering

MASKS = ("padding_mask", "local_mask")

QKV = ("query", "key", "value")

HEAD_SIZES = (16, 32, 64, 128)
"""Those that the attention kernel's tiles fit."""

SPECIALISED = ((3, 128, 3), (2, 128, 4))
"""GROUPS, KEYS and STAGES of the kernel whose warps have roles: sequences of 384 and of 128 tokens are whole tiles."""

COLUMNS = 1024
"""Entries of a row of scores or of a mask that a program has at once."""


def attention(lowering: Lowering, node: Node) -> None:
    """One kernel, whatever the mask, in several tiles; sequences are padded, or packed one behind the other."""
    *_, heads, _, size = lowering.shape(node.values[0])
    if size not in HEAD_SIZES or lowering.shape(node.values[2])[-1] != size:
        sizes = ", ".join(map(str, HEAD_SIZES))
        raise lowering.refusal(
            node, f"the attention kernel takes heads of {sizes}, not {size}; leave out fuse_attention"
        )
    found = attended(lowering.graph, node)
    lengths = None if found.lengths is None else lengths_of(lowering, found.lengths)
    bias = None if found.bias is None else _bias(lowering, node, found.bias)
    starts = None if found.starts is None else lowering.layout(found.starts).place
    row, places = _side_by_side(lowering, node)
    context = lowering.buffer(node.key)
    given: dict[str, Any] = {**dict(zip(QKV, places, strict=True)), "row": row}
    given |= {"lengths": lengths or context, "starts": starts or lengths or context, "context": context}
    given |= {"bias": bias.place if bias else context, "seq": Size(1, ("seq",)), "size": size}
    axes = ("batch", "head", "query", "key")
    given |= {
        f"bias_{axis}": fixed(stride) for axis, stride in zip(axes, bias.strides if bias else (ZERO,) * 4, strict=True)
    }
    given |= {"PACKED": starts is not None, "HAS_LENGTHS": lengths is not None, "HAS_BIAS": bias is not None}
    given["GIVEN"] = is_given(lowering.graph, found.lengths) and is_given(lowering.graph, found.starts)
    given |= {"WINDOW": found.window, "scale": node.attribute("scale"), "PRECISION": lowering.precision}
    ways = [_launch(lowering, given, int(heads), *tile) for tile in _tiles(lowering)]
    roles = SPECIALISED if _takes_roles(lowering, given) else ()
    ways += [_launch_with_roles(lowering, given, int(heads), *tile) for tile in roles]
    lowering.step(node.key, *([way] for way in ways), choices=((FEW, 0), (0, len(ways) - 1 if roles else 0)))


def _bias(lowering: Lowering, node: Node, bias: str) -> Layout:
    """What is added to the scores: [batch, heads, queries, keys], or a table of which each packed sequence looks at its
    own corner."""
    layout = lowering.layout(bias)
    if node.op != "attention":
        return layout.broadcast((1, *layout.shape))
    query, key, *_ = node.values
    return layout.broadcast((*lowering.shape(query)[:3], lowering.shape(key)[2]))


def lengths_of(lowering: Lowering, value: str) -> Place:
    """The lengths that the session counts, or others that the graph computes."""
    return lowering.input("lengths") if counts_tokens(lowering.graph, value) else lowering.layout(value).place


def is_given(graph: Graph, value: str | None) -> bool:
    """Whether lengths or starts are the session's, so that no kernel computes them; also where there are none."""
    return value is None or graph.producer(value).op == INPUT or counts_tokens(graph, value)


def _tiles(lowering: Lowering) -> list[tuple[int, int, int, int]]:
    """QUERIES, KEYS, STAGES, warps; the first is the fastest on an H200 for most shapes."""
    if lowering.element == "f32":
        return [(32, 32, 2, 4)]
    return [(64, 64, 3, 4), (64, 128, 2, 4), (32, 128, 2, 4), (128, 64, 3, 8)]


def _launch(
    lowering: Lowering, given: dict[str, Any], heads: int, queries: int, keys: int, stages: int, warps: int
) -> Launch:
    grid = [Size(1, ("seq",), queries), Size(heads), Size(1, ("batch",))]
    tile = {"QUERIES": queries, "KEYS": keys, "STAGES": stages}
    return lowering.launch("attention", "attention", grid, warps, [given["context"].name], **given, **tile)


def _takes_roles(lowering: Lowering, given: Mapping[str, Any]) -> bool:
    """Whether the kernel whose warps have roles takes an attention: its heads and addresses fit the copy engine."""
    is_plain = not given["HAS_BIAS"] and given["WINDOW"] == 0 and given["scale"] > 0
    fits = all(count % 8 == 0 for count in (given["row"].factor, *(given[of].offset for of in QKV)))  # 16 bytes
    is_here = lowering.architecture == HOPPER and lowering.element != "f32"
    return is_here and is_plain and fits and given["size"] == attention_specialised.SIZE


def _launch_with_roles(
    lowering: Lowering, given: dict[str, Any], heads: int, groups: int, keys: int, stages: int
) -> Launch:
    size, row = given["size"], given["row"]
    rows = Size(1, ("tokens",) if given["PACKED"] else ("batch", "seq"))
    boxes = {"query": 64 * groups, "key": keys, "value": keys}
    own = {of: Tiles(given[of], rows, heads * size, row, (count, size)) for of, count in boxes.items()}
    own |= {"batch": Size(1, ("batch",)), "ELEMENT": lowering.element, "HEADS": heads, "SCALE": given["scale"]}
    own |= {"GROUPS": groups, "KEYS": keys, "STAGES": stages}
    file, warps = "attention_specialised", attention_specialised.warps(own)
    return lowering.launch(file, file, [Size(MULTIPROCESSORS)], warps, [given["context"].name], **(given | own))


def _side_by_side(lowering: Lowering, node: Node) -> tuple[Size, list[Place]]:
    """Query, key and value as columns of one matrix: its row, and where each starts; copied where they are not."""
    values = node.values[:3]
    views = [_by_token(lowering, value) for value in values]
    if len({view.row for view in views}) > 1:
        whole = contiguous(lowering.unused(f"{node.key}.columns"), (*views[0].names, 3, views[0].width))
        axis = len(views[0].names)
        lowering.memory(whole.buffer, lowering.element, whole.shape)
        for index, view in enumerate(views):
            column = replace(whole, offset=index * view.width).without(axis)
            pointwise(lowering, f"{whole.buffer}.{index}", column, view.layout)
        width = views[0].width
        return Size(3 * width), [Place(whole.buffer, index * width) for index in range(3)]
    return views[0].row, [Place(view.buffer, view.offset) for view in views]


def _by_token(lowering: Lowering, value: str) -> View:
    """[batch, heads, seq, size] or [heads, tokens, size] as rows for tokens, the heads side by side."""
    layout = lowering.layout(value)
    *rest, heads, rows, size = range(len(layout.shape))
    return lowering.rows_in(value, layout.transposed((*rest, rows, heads, size)))


def rotary(lowering: Lowering, node: Node) -> None:
    """In place where nothing else reads the value, so that it stays beside the others, and then together with the heads
    directly behind its own: keys behind queries. Packed tokens bring their places along."""
    x, *places = node.values
    view, base = _by_token(lowering, x), node.attribute("base")
    *rest, heads, rows, size = lowering.shape(x)
    half, count = int(size) // 2, int(heads)
    name = f"frequencies.{base}.{size}"
    lowering.constants[name] = ("f32", rotary_factors(base, int(size))[0][:half].astype(np.float32))
    given: dict[str, Any] = {"x": Place(view.buffer, view.offset), "x_row": view.row, "frequencies": Place(name)}
    if _may_change(lowering, x) and view.buffer == lowering.layout(x).buffer:
        lowering.layouts[node.key] = lowering.layout(x)
        given |= {"y": given["x"], "y_row": view.row}
        follower = _follower(lowering, node, view)
        if follower is not None:
            lowering.layouts[follower.key] = lowering.layout(follower.values[0])
            count += int(lowering.shape(follower.key)[-3])
    else:
        axes = len(rest)
        turned = contiguous(node.key, (*rest, rows, heads, size))
        lowering.layouts[node.key] = turned.transposed((*range(axes), axes + 1, axes, axes + 2))
        given |= {"y": lowering.memory(node.key, lowering.element, turned.shape), "y_row": turned.strides[axes]}
    given |= {"places": lowering.layout(places[0]).place if places else Place(name), "seq": Size(1, ("seq",))}
    given |= {"heads": count, "size": size, "PACKED": bool(places), "HEADS": power(count), "HALF": power(half)}
    grid = [product([*rest, rows])]
    lowering.step(node.key, [lowering.launch("rotary", "rotary", grid, 4, [given["y"].name], **given)])


def _may_change(lowering: Lowering, value: str) -> bool:
    """Whether the memory of a value may be written anew by its one reader: a kernel has computed it, and no other
    layout of that memory is read."""
    graph = lowering.graph
    while len(graph.users(value)) == 1 and not graph.is_output(value):
        node = graph.producer(value)
        if node.op not in ("transpose", "reshape", "split"):
            return node.op in ("matmul", "add", "qkv_projection")
        value = node.values[0]
    return False


def _follower(lowering: Lowering, node: Node, view: View) -> Node | None:
    """The node that turns the columns directly behind, in place too, by the same angles."""
    for other in lowering.graph:
        if other.key in lowering.layouts:
            continue
        alike = (other.op, other.attributes, other.values[1:]) == (node.op, node.attributes, node.values[1:])
        if alike and _computed(lowering, other.values[0]) == _computed(lowering, node.values[0]):
            behind = _by_token(lowering, other.values[0])
            if replace(behind, width=view.width) == replace(view, offset=view.offset + view.width):
                return other if _may_change(lowering, other.values[0]) else None
    return None


def _computed(lowering: Lowering, value: str) -> str:
    """The key of the node whose memory a value is another layout of."""
    node = lowering.graph.producer(value)
    return _computed(lowering, node.values[0]) if node.op in ("transpose", "reshape", "split") else node.key


def scaled_softmax(lowering: Lowering, node: Node) -> None:
    """With a scale and a mask, or softmax alone."""
    scores, *mask = node.values
    shape = with_axes(node.types[0].shape, 4)
    given: dict[str, Any] = {"scores": lowering.dense(scores), "HAS_MASK": bool(mask)}
    layout = (lowering.layout(mask[0]) if mask else contiguous(scores, ())).broadcast(shape)
    given |= strides("mask", layout) | {"mask": layout.place if mask else given["scores"]}
    given |= {"scale": node.attribute("scale") if mask else 1.0, "weights": lowering.buffer(node.key)}
    given |= {"size_1": number(shape[1]), "size_2": number(shape[2]), "count": number(shape[3])}
    grid = [product(shape[:3])]
    launch = lowering.launch("scaled_softmax", "scaled_softmax", grid, 4, [node.key], **given, BLOCK=COLUMNS)
    lowering.step(node.key, [launch])


def padding_mask(lowering: Lowering, node: Node) -> None:
    """As memory: attention takes the lengths."""
    batch, _, _, count = node.types[0].shape
    given: dict[str, Any] = {"lengths": lengths_of(lowering, node.values[0]), "mask": lowering.buffer(node.key)}
    grid = [product([batch]), blocks(count, COLUMNS)]
    given |= {"count": number(count), "BLOCK": COLUMNS}
    lowering.step(node.key, [lowering.launch("masks", "padding_mask", grid, 4, [node.key], **given)])


def local_mask(lowering: Lowering, node: Node) -> None:
    """As memory: attention takes the window where the mask is one of lengths."""
    *rest, count, _ = node.types[0].shape
    given: dict[str, Any] = {"mask": lowering.dense(node.values[0]), "local": lowering.buffer(node.key)}
    given |= {"count": number(count), "window": node.attribute("window"), "BLOCK": COLUMNS}
    grid = [product([*rest, count]), blocks(count, COLUMNS)]
    lowering.step(node.key, [lowering.launch("masks", "local_mask", grid, 4, [node.key], **given)])


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(("attention", "packed_attention", "packed_biased_attention"), attention),
    **dict.fromkeys(("rotary", "packed_rotary"), rotary),
    **dict.fromkeys(("scaled_softmax", "softmax"), scaled_softmax),
    "padding_mask": padding_mask,
    "local_mask": local_mask,
}
