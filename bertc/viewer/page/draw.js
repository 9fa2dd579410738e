// A picture as SVG in a canvas with a camera.

const KINDS = {
  product: ["matmul", "qkv_projection"],
  attention: ["attention", "packed_attention", "softmax", "scaled_softmax", "padding_mask", "local_mask"],
  norm: ["layer_norm", "skip_norm", "embed_norm", "packed_embed_norm", "untyped_embed_norm"],
  activation: ["gelu", "gelu_tanh", "bias_gelu", "bias_gelu_tanh", "relu", "silu", "sigmoid", "tanh"],
  lookup: ["embedding", "take_along", "relative_buckets", "log_buckets", "rotary"],
  movement: ["transpose", "reshape", "concat", "split", "slice", "select", "cast", "first_tokens"],
  end: ["input", "output", "weight"],
};
const KIND = Object.fromEntries(Object.entries(KINDS).flatMap(([kind, ops]) => ops.map((op) => [op, kind])));

const escape = (text) =>
  String(text).replace(/[&<>"']/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[sign]);

const shortened = (text, width, letter) => {
  const most = Math.floor((width - 24) / letter);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
};

const insideLayer = (key) => key.replace(/^(?:[^.]*[^.\d][^.]*\.)+\d+\./, "");

class Canvas {
  constructor(parent, side, pick) {
    this.side = side;
    this.camera = { x: 0, y: 0, scale: 1 };
    this.element = document.createElement("div");
    this.element.className = "canvas";
    this.element.innerHTML =
      `<svg class="graph" role="group" aria-label="Graph of ${escape(side.name)}"><g class="world"></g></svg><h3></h3>`;
    parent.append(this.element);
    this.svg = this.element.querySelector("svg");
    this.world = this.element.querySelector(".world");
    this.svg.addEventListener("click", (event) => !this.dragged && pick(event.target.closest("[data-key], [data-fold], [data-turn]")));
    this.#listen();
  }

  /** `mark(box)` gives a box's classes besides its own, `heat(node)` how hot it is, from 0 to 1. */
  draw(drawn, pass, mark, heat) {
    this.picture = drawn;
    this.pass = pass;
    const frames = drawn.frames.map((frame) => this.#frame(frame)).join("");
    const lines = drawn.lines.map((line, index) => `<path class="line${line.went ? " went" : ""}" data-line="${index}" d="${line.path}"/>`);
    const boxes = drawn.boxes.map((box) => this.#box(box, mark, heat)).join("");
    const knobs = drawn.frames.map((frame) => this.#knobs(frame)).join("");
    const focused = this.world.contains(document.activeElement) ? document.activeElement.dataset : null;
    this.world.innerHTML = frames + lines.join("") + boxes + knobs;
    this.elements = new Map();
    for (const element of this.world.querySelectorAll(".node")) this.elements.set(name(element.dataset.key, element.dataset.went === "1"), element);
    this.boxes = new Map(drawn.boxes.map((box) => [name(box.key, box.went), box]));
    this.lines = [...this.world.querySelectorAll(".line")];
    if (focused) this.#focus(focused);
  }

  /** What stands in the place of an element that had the keyboard's focus before a picture was drawn anew. */
  #focus({ key, went, fold, way }) {
    const knobs = [...this.world.querySelectorAll(".knob")];
    const knob = knobs.find((one) => one.dataset.fold === fold && one.dataset.way === way);
    (key ? this.elements.get(name(key, went === "1")) ?? this.elements.values().next().value : knob ?? knobs[0])?.focus({ preventScroll: true });
  }

  #box(box, mark, heat) {
    const ends = box.key.startsWith("output ");
    const node = ends ? null : this.side.node(this.pass, box.key, box.went);
    const op = ends ? box.key.slice(7) : node.op, kind = ends ? "end" : KIND[op] ?? "plain";
    const detail = ends ? "output" : box.detail, type = ends ? "" : node.types[0];
    const classes = ["node", ...mark(box), op === "input" || op === "weight" ? "input" : ends ? "output" : "",
      node?.constant ? "constant" : "", model.ops[op]?.fused ? "fused" : ""].filter(Boolean);
    const hot = node && box.state === "kept" ? heat(node) : 0, { width } = box;
    const burning = hot > 0 ? `<rect class="heat" width="${width}" height="${HEIGHT}" rx="8" opacity="${(0.08 + 0.62 * hot).toFixed(3)}"/>` : "";
    const label = `${op} ${box.key}${box.state === "kept" ? "" : `, ${box.state}`}`;
    return `<g class="${classes.join(" ")}" style="--kind:var(--${kind})" role="button" tabindex="-1" data-key="${escape(box.key)}"` +
      ` data-went="${box.went ? 1 : 0}" aria-label="${escape(label)}" transform="translate(${box.x} ${box.y})">` +
      `<title>${escape(`${op}\n${box.key}\n${node ? node.types.join(", ") : ""}`)}</title>` +
      `<rect class="box" width="${width}" height="${HEIGHT}" rx="8"/>${burning}<rect class="bar" x="0" y="9" width="4" height="${HEIGHT - 18}" rx="2"/>` +
      `<text class="op" x="14" y="21">${escape(shortened(op, width, 7.3))}</text>` +
      `<text class="name" x="14" y="36">${escape(shortened(detail, width, 6))}</text>` +
      `<text class="type" x="14" y="50">${escape(shortened(type, width, 6.1))}</text></g>`;
  }

  #frame({ x, y, width, height, count, layers, open, number, prefix }) {
    const title = layers === 1 ? `${prefix}.${number}` : `${prefix}.${number} to ${number + layers - 1}`;
    const stack = count > 1 && !open
      ? [8, 4].map((off) => `<rect class="stack" x="${off}" y="${off}" width="${width}" height="${height}" rx="12"/>`).join("") : "";
    return `<g class="frame" transform="translate(${x} ${y})">${stack}<rect width="${width}" height="${height}" rx="12"/>` +
      `<text x="14" y="20">${escape(title)}</text></g>`;
  }

  /** What a frame can be asked for; nothing where its layer stands alone. */
  #knobs({ x, y, width, id, count, layers, open, number, first, prefix }) {
    const last = first + (count - 1) * layers, what = `${count} ${layers === 1 ? "layers" : `times ${layers} layers`} that are alike`;
    const knob = (right, wide, data, text, label) =>
      `<g class="knob" role="button" tabindex="0" ${data} aria-label="${escape(label)}" transform="translate(${x + width - right} ${y + 6})">` +
      `<title>${escape(label)}</title><rect width="${wide}" height="19" rx="6"/><text x="${wide / 2}" y="13.5">${text}</text></g>`;
    if (count === 1) return "";
    if (open) return knob(60, 52, `data-fold="${id}"`, "fold", `Fold ${what}`);
    const turn = (way, to) => `data-turn="${prefix},${number},${to}" data-way="${way} ${id}"`;
    return knob(140, 22, turn("before", number === first ? last : number - layers), "‹", "The layer before") +
      knob(117, 22, turn("next", number === last ? first : number + layers), "›", "The next layer") +
      knob(92, 84, `data-fold="${id}"`, `unfold × ${count}`, `Unfold ${what}`);
  }

  /** Classes that follow what is selected and searched, without drawing anew. */
  light(selected, linked, matches) {
    for (const [id, element] of this.elements) {
      element.classList.toggle("selected", id === selected);
      element.classList.toggle("linked", linked.has(id));
      element.classList.toggle("match", matches?.has(id) ?? false);
      element.setAttribute("tabindex", id === selected ? "0" : "-1");
    }
    if (!this.elements.has(selected)) this.elements.values().next().value?.setAttribute("tabindex", "0");
    this.svg.classList.toggle("searching", Boolean(matches));
    this.lines.forEach((element, index) => {
      const { from, to } = this.picture.lines[index];
      const lit = selected && ((from && name(...from) === selected) || (to && name(...to) === selected));
      element.classList.toggle("lit", Boolean(lit));
    });
  }

  // ----------------------------------------------------------------------------------------------------- camera

  look() {
    const { x, y, scale } = this.camera;
    this.world.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${scale.toFixed(4)})`);
  }

  fit() {
    const { width, height } = this.svg.getBoundingClientRect(), [w, h] = this.picture.size;
    const room = height - 40, scale = Math.min(1, Math.max((width - 40) / w, 0.5), Math.max(room / h, 0.75));
    this.camera = { scale, x: (width - w * scale) / 2, y: 20 + Math.max(0, (room - h * scale) / 2) };
    this.look();
  }

  sees(id) {
    const { width, height } = this.svg.getBoundingClientRect(), at = this.place(id);
    return Boolean(at) && at[0] > 40 && at[0] < width - 40 && at[1] > 30 && at[1] < height - 30;
  }

  /** Bring what a pass did into the picture, where nothing of it is. */
  revealChanges() {
    const changed = this.picture.boxes.filter((box) => box.state !== "kept").map((box) => name(box.key, box.went));
    if (changed.length && !changed.some((id) => this.sees(id))) this.move(changed[0]);
  }

  fitAll() {
    const { width, height } = this.svg.getBoundingClientRect(), [w, h] = this.picture.size;
    const scale = Math.min(1, (width - 30) / w, (height - 40) / h);
    this.camera = { scale, x: (width - w * scale) / 2, y: 20 };
    this.look();
  }

  zoom(factor, x, y) {
    const { width, height } = this.svg.getBoundingClientRect();
    const [atX, atY] = [x ?? width / 2, y ?? height / 2], scale = Math.min(3, Math.max(0.03, this.camera.scale * factor));
    const grown = scale / this.camera.scale;
    this.camera = { scale, x: atX - (atX - this.camera.x) * grown, y: atY - (atY - this.camera.y) * grown };
    this.look();
  }

  /** Where a box is on the screen, from the canvas's corner. */
  place(id) {
    const box = this.boxes.get(id);
    return box && [this.camera.x + (box.x + box.width / 2) * this.camera.scale, this.camera.y + (box.y + HEIGHT / 2) * this.camera.scale];
  }

  /** Move so that a box comes to lie where it was, or in the middle. */
  move(id, to) {
    const { width, height } = this.svg.getBoundingClientRect(), now = this.place(id);
    if (!now) return;
    const [x, y] = to ?? [width / 2, height / 2];
    this.camera.x += x - now[0];
    this.camera.y += y - now[1];
    this.look();
  }

  reveal(id) {
    if (this.camera.scale < 0.55) this.camera.scale = 0.85;
    else if (this.sees(id)) return;
    this.move(id);
  }

  /** The box nearest to the middle: what a step keeps in its place. */
  middle() {
    const { width, height } = this.svg.getBoundingClientRect();
    let best = null, least = Infinity;
    for (const id of this.boxes.keys()) {
      const [x, y] = this.place(id), distance = Math.hypot(x - width / 2, y - height / 2);
      if (distance < least) [best, least] = [id, distance];
    }
    return best;
  }

  #listen() {
    const fingers = new Map();
    let apart = 0;
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top } = this.svg.getBoundingClientRect();
      if (event.ctrlKey || event.metaKey || event.deltaMode) this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.01)), event.clientX - left, event.clientY - top);
      else if (event.shiftKey) this.camera.x -= event.deltaY;
      else {
        this.camera.x -= event.deltaX;
        this.camera.y -= event.deltaY;
      }
      this.look();
      this.onmove?.();
    }, { passive: false });
    this.svg.addEventListener("pointerdown", (event) => {
      if (!fingers.size) this.dragged = false;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      apart = spread(fingers);
    });
    addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const [x, y] = fingers.get(event.pointerId), dx = event.clientX - x, dy = event.clientY - y;
      if (!this.dragged && Math.hypot(dx, dy) < 4) return;
      this.dragged = true;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size > 1) {
        const { left, top } = this.svg.getBoundingClientRect(), now = spread(fingers);
        const all = [...fingers.values()], at = (axis) => all.reduce((sum, finger) => sum + finger[axis], 0) / all.length;
        if (apart) this.zoom(now / apart, at(0) - left, at(1) - top);
        apart = now;
      } else {
        this.camera.x += dx;
        this.camera.y += dy;
      }
      this.look();
      this.onmove?.();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      addEventListener(end, (event) => {
        fingers.delete(event.pointerId);
        apart = spread(fingers);
      });
    }
  }
}

const name = (key, went) => (went ? `- ${key}` : key);

function spread(fingers) {
  const [one, other] = [...fingers.values()];
  return other ? Math.hypot(one[0] - other[0], one[1] - other[1]) : 0;
}
