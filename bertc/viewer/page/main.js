// What is shown, and what can be done with it.

const model = JSON.parse(document.getElementById("document").textContent);
model.sides = model.sides.map((side) => new Side(side));
const comparing = model.sides.length > 1;
const VIEWS = { changes: "Changes", graph: "Graph", constants: "With constants" };

const state = {
  pass: model.sides[0].passes.length - 1,
  view: comparing || model.sides[0].passes.length === 1 ? "graph" : "changes",
  side: 0, key: null, went: false, why: null,
  query: "", found: [], foundAt: -1,
  colour: model.sides[0].times ? "time" : "kind",
  folding: { open: new Set(), shown: new Map() },
  sizes: { batch: model.sides[0].batch, seq: model.sides[0].seq },
};

const get = (id) => document.getElementById(id);
const sizes = () => ({ ...state.sizes, tokens: state.sizes.batch * state.sizes.seq });

/** The pass of a side that stands beside the one that is shown: of its name, or where that is missing the last. */
function passOf(index) {
  if (index === 0) return state.pass;
  const passes = model.sides[index].passes, named = passes.findIndex((pass) => pass.name === model.sides[0].passes[state.pass].name);
  return named < 0 ? passes.length - 1 : named;
}

const viewOf = (index) => (state.view === "changes" && passOf(index) === 0 ? "graph" : state.view);

const canvases = model.sides.map((side, index) => {
  const canvas = new Canvas(get("canvases"), side, (element) => picked(index, element));
  canvas.onmove = () => follow(canvas);
  return canvas;
});

function follow(leader) {
  for (const canvas of canvases) {
    if (canvas === leader) continue;
    canvas.camera = { ...leader.camera };
    canvas.look();
  }
}

// ------------------------------------------------------------------------------------------------------------ drawing

function marks(index) {
  const side = model.sides[index], pass = passOf(index);
  if (!comparing || state.view === "changes") return (box) => [box.state];
  const other = model.sides[1 - index], otherPass = passOf(1 - index);
  const text = (node) => JSON.stringify([node.op, node.inputs, node.attributes, node.types]);
  return (box) => {
    if (box.key.startsWith("output ")) return [box.key.slice(7) in other.passes[otherPass].outputs ? "kept" : "only"];
    const mine = side.node(pass, box.key), theirs = other.node(otherPass, box.key);
    return [!theirs ? "only" : text(mine) === text(theirs) ? "kept" : "differs"];
  };
}

function heats(side) {
  const measure = {
    time: (node) => side.times?.nodes[node.key] ?? 0,
    flops: (node) => evaluate(node.flops, sizes()),
    bytes: (node) => evaluate(node.bytes, sizes()),
  }[state.colour];
  if (!measure) return () => 0;
  const most = Math.max(1e-12, ...side.list(side.passes.length - 1).map(measure));
  return (node) => Math.min(1, Math.sqrt(measure(node) / most));
}

function draw({ fit = false, anchor = null } = {}) {
  const places = canvases.map((canvas) => {
    const held = fit ? null : anchor ?? canvas.middle();
    return held && [held, canvas.place(held)];
  });
  canvases.forEach((canvas, index) => {
    const pass = passOf(index), side = model.sides[index];
    canvas.draw(picture(side, pass, viewOf(index), state.folding), pass, marks(index), heats(side));
    canvas.element.querySelector("h3").textContent = comparing ? `${side.name}: ${side.passes[pass].name}` : "";
  });
  light();
  timeline();
  legend();
  tell();
  canvases.forEach((canvas, index) => {
    if (!places[index]) canvas.fit();
    else if (canvas.boxes.has(places[index][0])) canvas.move(...places[index]);
    else canvas.look();
    if (viewOf(index) === "changes" && !state.key) canvas.revealChanges();
  });
  if (comparing && fit) follow(canvases[0]);
  remember();
}

function light() {
  canvases.forEach((canvas, index) => {
    const side = model.sides[index], pass = passOf(index), linked = new Set();
    if (state.key && index === state.side && viewOf(index) === "changes") {
      const group = side.replacement(pass, state.key, state.went);
      for (const key of group?.[state.went ? 1 : 0] ?? []) linked.add(name(key, !state.went));
    }
    const matches = state.query ? new Set(state.found.filter((one) => one.side === index).map((one) => name(one.key, one.went))) : null;
    canvas.light(state.key && (index === state.side || !state.went) ? name(state.key, state.went) : null, linked, matches);
  });
}

function timeline() {
  const side = model.sides[0];
  get("timeline").innerHTML = side.passes.map((pass, index) => {
    const before = index ? side.passes[index - 1].ops : null, did = index === 0 || pass.came.length || pass.went.length;
    const ops = before === null ? `${pass.ops} ops` : before === pass.ops ? `${pass.ops} ops` : `${before} → ${pass.ops} ops`;
    const fired = index ? `, fired ${pass.fired}` : "", took = pass.milliseconds ? `, ${milliseconds(pass.milliseconds)}` : "";
    return `<li role="option" id="pass-${index}" data-pass="${index}" aria-selected="${index === state.pass}" class="${did ? "did" : ""}">` +
      `<b>${escape(pass.name)}</b><small>${ops}${fired}${took}</small></li>`;
  }).join("");
  get("timeline").setAttribute("aria-activedescendant", `pass-${state.pass}`);
  get(`pass-${state.pass}`).scrollIntoView({ block: "nearest", inline: "nearest" });
}

function legend() {
  const swatches = comparing && state.view !== "changes" ? [["only here", "came"], ["differs", "changed"]]
    : state.view === "changes" ? [["came", "came"], ["went", "went"], ["changed", "changed"]] : [];
  const scale = state.colour === "kind" ? [] : [[`hot: most ${state.colour}`, "hot"]];
  get("legend").innerHTML = [...swatches, ...scale].map(([text, colour]) => `<li><i style="color:var(--${colour});background:var(--${colour}-soft, var(--${colour}))"></i>${text}</li>`).join("");
  get("legend").hidden = !swatches.length && !scale.length;
  const focused = get("views").contains(document.activeElement);
  get("views").innerHTML = Object.entries(VIEWS).map(([view, text]) => `<button role="radio" data-view="${view}" aria-checked="${view === state.view}">${text}</button>`).join("");
  if (focused) get("views").querySelector("[aria-checked=true]").focus();
}

function tell() {
  const at = { side: state.side, pass: passOf(state.side), otherPass: comparing ? passOf(1 - state.side) : null, key: state.key, went: state.went, view: viewOf(state.side) };
  const why = state.why ?? at.pass, focused = get("details").contains(document.activeElement);
  get("details").innerHTML = (state.key && nodeDetails(at, sizes(), why)) || passDetails({ ...at, side: state.key ? at.side : 0, pass: state.key ? at.pass : state.pass,
    otherPass: comparing ? passOf(1) : null }, sizes());
  if (focused) get("details").focus({ preventScroll: true });
  for (const line of get("details").querySelectorAll("pre .here")) {
    const text = line.closest("pre");
    text.scrollTop = line.offsetTop - text.offsetTop - text.clientHeight / 2;
  }
}

/** The address names what is shown, so that it can be passed on. */
function remember() {
  const words = new URLSearchParams({ pass: model.sides[0].passes[state.pass].name, view: state.view });
  if (state.key) words.set("node", name(state.key, state.went));
  history.replaceState(null, "", `#${words}`);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  const pass = model.sides[0].passes.findIndex((one) => one.name === words.get("pass"));
  if (pass >= 0) state.pass = pass;
  if (words.get("view") in VIEWS) state.view = words.get("view");
  const node = words.get("node");
  if (node) [state.key, state.went] = node.startsWith("- ") ? [node.slice(2), true] : [node, false];
}

// ------------------------------------------------------------------------------------------------------------ acting

function step(to) {
  const pass = Math.max(0, Math.min(model.sides[0].passes.length - 1, to));
  if (pass === state.pass) return;
  const anchor = state.key && canvases[state.side].boxes.has(name(state.key, state.went)) ? state.key : null;
  state.pass = pass;
  state.why = null;
  if (state.key) {
    state.went = false;
    if (!model.sides[state.side].node(passOf(state.side), state.key)) select(null);
  }
  search(state.query, false);
  draw({ anchor });
}

function select(key, went = false, side = 0) {
  [state.key, state.went, state.side] = [key, went, key ? side : 0];
  if (key) state.why = null;
}

/** Select a node and bring it into the picture: from a folded layer, by turning to it. */
function go(key, went = false, side = state.side) {
  const index = side, here = passOf(index), sideModel = model.sides[index];
  if (!sideModel.node(here, key, went)) went = !went && sideModel.isGone(here, key);
  if (!sideModel.node(here, key, went)) {
    const later = sideModel.graphs.findIndex((graph, pass) => pass >= here && graph.has(key));
    const pass = later >= 0 ? later : sideModel.graphs.findLastIndex((graph) => graph.has(key));
    if (pass < 0 || index > 0) return;
    state.pass = pass;
  }
  if (went && state.view !== "changes") state.view = "changes";
  const node = sideModel.node(passOf(index), key, went);
  const layer = /^(.*?)\.(\d+)\./.exec(key);
  select(key, went, side);
  if (layer) state.folding.shown.set(layer[1], Number(layer[2]));
  draw();
  if (!canvases[index].boxes.has(name(key, went)) && node?.constant && state.view !== "constants") {
    state.view = "constants";
    draw();
  }
  canvases[index].reveal(name(key, went));
  if (comparing) follow(canvases[index]);
}

function picked(index, element) {
  if (!element) select(null);
  else if (element.dataset.fold) return fold(element.dataset.fold);
  else if (element.dataset.turn) {
    const [prefix, from, to] = element.dataset.turn.split(",");
    const layer = state.key?.startsWith(`${prefix}.`) ? Number(state.key.slice(prefix.length + 1).split(".")[0]) : NaN;
    state.folding.shown.set(prefix, Number(to));
    if (canvases[index].boxes.has(name(state.key, state.went)) && layer >= Number(from)) {
      state.key = state.key.replace(`${prefix}.${layer}.`, `${prefix}.${layer + Number(to) - Number(from)}.`);
    }
    return draw();
  } else if (element.dataset.key.startsWith("output ")) {
    const value = model.sides[index].passes[passOf(index)].outputs[element.dataset.key.slice(7)];
    return go(model.sides[index].flow(passOf(index)).producer.get(value), false, index);
  } else select(element.dataset.key, element.dataset.went === "1", index);
  light();
  tell();
  remember();
}

function fold(id) {
  const { open } = state.folding;
  if (!open.delete(id)) open.add(id);
  draw();
}

/** Unfold or fold the layers of the selected node, or all when there is none. */
function unfold() {
  const all = canvases.flatMap((canvas) => canvas.picture.frames.filter((frame) => frame.count > 1));
  const mine = all.filter((frame) => state.key?.startsWith(`${frame.prefix}.`));
  const wanted = mine.length ? mine : all, opening = wanted.some((frame) => !frame.open);
  for (const frame of wanted) state.folding.open[opening ? "add" : "delete"](frame.id);
  draw({ anchor: state.key });
}

/** To a neighbour of the selected node: what reads it, or what it reads. */
function walk(down) {
  const side = model.sides[state.side], pass = passOf(state.side), node = state.key && side.node(pass, state.key, state.went);
  if (!node) return neighbour(1);
  const flow = side.flow(state.went ? pass - 1 : pass);
  const keys = down ? node.results.flatMap((value) => flow.readers.get(value) ?? [])
    : node.inputs.filter((value) => typeof value === "string").map((value) => flow.producer.get(value));
  const key = keys.find((one) => !side.node(state.went ? pass - 1 : pass, one).constant) ?? keys[0];
  if (key) go(key, state.went && side.isGone(pass, key));
}

function neighbour(by) {
  const side = model.sides[state.side], nodes = side.list(passOf(state.side)).filter((node) => !node.constant);
  const at = nodes.findIndex((node) => node.key === state.key);
  if (nodes.length) go(nodes[(at + by + nodes.length) % nodes.length].key);
}

function zoom(how) {
  for (const canvas of canvases) {
    if (how === "fit") canvas.fitAll();
    else canvas.zoom(how === "in" ? 1.3 : 1 / 1.3);
  }
  if (comparing) follow(canvases[0]);
}

function theme() {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function show(view) {
  state.view = view;
  search(state.query, false);
  draw();
}
