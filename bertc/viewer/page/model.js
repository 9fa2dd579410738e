// The document as the page uses it: graphs by pass, and pictures whose layers are folded or stamped out.

const HEIGHT = 58; // of a box; bertc/drawing/scene.py
const BETWEEN = 26; // two stamped layers

class Side {
  constructor(content) {
    Object.assign(this, content);
    this.graphs = [];
    this.decoded = [];
    let graph = new Map();
    for (const pass of this.passes) {
      graph = new Map(graph);
      for (const key of pass.went) graph.delete(key);
      for (const row of pass.came) graph.set(this.nodes[row][0], row);
      this.graphs.push(graph);
    }
  }

  #decode(row) {
    if (!this.decoded[row]) {
      const node = Object.fromEntries(this.fields.map((name, index) => [name, this.nodes[row][index]]));
      node.types = node.types.map((type) => this.types[type]);
      node.flops = this.polynomials[node.flops];
      node.bytes = this.polynomials[node.bytes];
      node.fates = this.fates[node.fates];
      node.row = row;
      this.decoded[row] = node;
    }
    return this.decoded[row];
  }

  /** The node of that key after a pass, or before it when it went there. */
  node(pass, key, went = false) {
    const row = this.graphs[pass - (went ? 1 : 0)]?.get(key);
    return row === undefined ? null : this.#decode(row);
  }

  list(pass) {
    return [...this.graphs[pass].values()].map((row) => this.#decode(row));
  }

  /** Who computes each value, and who reads it. */
  flow(pass) {
    this.flows ??= [];
    if (!this.flows[pass]) {
      const producer = new Map(), readers = new Map();
      for (const node of this.list(pass)) {
        for (const name of node.results) if (name) producer.set(name, node.key);
        for (const value of node.inputs) {
          if (typeof value === "string") readers.set(value, [...(readers.get(value) ?? []), node.key]);
        }
      }
      this.flows[pass] = { producer, readers };
    }
    return this.flows[pass];
  }

  /** What a pass did to a node of the graph after it. */
  state(pass, key) {
    if (pass === 0) return "kept";
    const now = this.node(pass, key), before = this.node(pass - 1, key);
    if (!before || before.op !== now.op) return "came";
    return before.row === now.row ? "kept" : "changed";
  }

  isGone(pass, key) {
    if (pass === 0) return false;
    const before = this.node(pass - 1, key), now = this.node(pass, key);
    return Boolean(before) && (!now || now.op !== before.op);
  }

  /** The group of nodes that a node replaced, or was replaced with. */
  replacement(pass, key, went) {
    return this.passes[pass].replaced.find((group) => group[went ? 0 : 1].includes(key)) ?? null;
  }

  /** Nodes that went in a pass. */
  gone(pass) {
    return pass === 0 ? [] : this.list(pass - 1).filter((node) => this.isGone(pass, node.key) && node.op !== "weight");
  }
}

function evaluate(polynomial, sizes) {
  return polynomial.reduce((sum, [factor, ...names]) => sum + names.reduce((product, name) => product * sizes[name], factor), 0);
}

/** What is drawn after a pass: boxes, frames and lines at their places, with the folding that is asked for. */
function picture(side, pass, view, folding) {
  const scene = side.scenes[side.passes[pass].scenes[view]];
  const frames = scene.frames.map(([prefix, first, layers, count, x, y, block]) => {
    const id = `${prefix}.${first}`, open = count > 1 && folding.open.has(id);
    const wanted = Math.floor(((folding.shown.get(prefix) ?? first) - first) / layers);
    return { id, prefix, first, layers, count, x, y, block: side.blocks[block], open, copy: open || wanted < 0 || wanted >= count ? 0 : wanted };
  });
  const step = (frame) => frame.block.size[1] + BETWEEN;
  const shift = (y) =>
    frames.reduce((sum, f) => sum + (f.open && y >= f.y + f.block.size[1] - 1 ? (f.count - 1) * step(f) : 0), 0);
  const down = (points) => points.map((value, index) => (index % 2 ? value + shift(value) : value));
  const result = { boxes: [], frames: [], lines: [], size: [scene.size[0], scene.size[1] + shift(scene.size[1] + 1)] };
  const add = (key, state, x, y, width, detail) =>
    result.boxes.push({ key, state: side.states[state], went: side.states[state] === "went", x, y, width, detail });

  for (const frame of frames) {
    const copies = frame.open ? frame.count : 1;
    for (let index = 0; index < copies; index++) {
      stamp(result, frame, frame.open ? index : frame.copy, frame.x, frame.y + shift(frame.y) + index * step(frame), add);
      if (index) connect(result, frame, frame.y + shift(frame.y), index, step(frame));
    }
  }
  for (const box of scene.boxes) add(box[0], box[1], box[2], box[3] + shift(box[3]), box[4], box[0]);
  const end = (index, points) => {
    if (index < scene.boxes.length) return [scene.boxes[index][0], scene.boxes[index][1] === 3];
    const frame = frames[index - scene.boxes.length];
    const port = frame.block.going.find(([x]) => Math.abs(frame.x + x - points[0]) < 2);
    return port ? [keyIn(frame, frame.open ? frame.count - 1 : frame.copy, port[1][0]), port[1][1]] : null;
  };
  for (const [source, target, went, ...points] of scene.lines) {
    const to = target < scene.boxes.length ? end(target, []) : null;
    result.lines.push({ from: end(source, points), to, went: Boolean(went), path: curve(down(points)) });
  }
  return result;
}

/** The node of a name inside a unit of layers; where a unit has several, the name begins with which. */
function keyIn({ prefix, first, layers }, unit, name) {
  if (layers === 1) return `${prefix}.${first + unit}.${name}`;
  const dot = name.indexOf("."), layer = first + unit * layers + Number(name.slice(0, dot));
  return `${prefix}.${layer}.${name.slice(dot + 1)}`;
}

function stamp(result, frame, unit, x, y, add) {
  const { block, first, layers } = frame, number = first + unit * layers, key = (index) => keyIn(frame, unit, block.boxes[index][0]);
  result.frames.push({ ...frame, number, x, y, width: block.size[0], height: block.size[1] });
  block.boxes.forEach(([name, state, dx, dy, width], index) => add(key(index), state, x + dx, y + dy, width, layers === 1 ? name : `${key(index).slice(frame.prefix.length + 1)}`));
  const end = (index) => (index < 0 ? null : [key(index), block.boxes[index][1] === 3]);
  for (const [source, target, went, ...points] of block.lines) {
    const path = curve(points.map((value, index) => value + (index % 2 ? y : x)));
    result.lines.push({ from: end(source), to: end(target), went: Boolean(went), path });
  }
}

/** Lines into a stamped unit: from the one before it, or along the side from what all of them read. */
function connect(result, frame, top, index, step) {
  const above = top + (index - 1) * step + frame.block.size[1], y = top + index * step;
  frame.block.coming.forEach(([x, feed], lane) => {
    const into = frame.x + x;
    if (feed) {
      const port = frame.block.going.find(([, name]) => name[0] === feed[0] && name[1] === feed[1]);
      if (!port) return;
      const from = [keyIn(frame, index - 1, feed[0]), feed[1]];
      result.lines.push({ from, to: null, went: feed[1], path: curve([frame.x + port[0], above, into, y]) });
    } else {
      const side = frame.x - 10 - 7 * lane, start = index === 1 ? `M${into} ${top - 9}H${side}` : `M${side} ${y - step - 9}`;
      result.lines.push({ from: null, to: null, went: false, path: `${start}V${y - 9}H${into}V${y}` });
    }
  });
}

function curve(points) {
  let [x, y] = points, path = `M${x} ${y}`;
  for (let index = 2; index < points.length; index += 2) {
    const [toX, toY] = [points[index], points[index + 1]], middle = (y + toY) / 2;
    path += toX === x ? `V${toY}` : `C${x} ${middle} ${toX} ${middle} ${toX} ${toY}`;
    [x, y] = [toX, toY];
  }
  return path;
}
