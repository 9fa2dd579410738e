// Search, the keyboard, clicks; and the start.

function search(query, show = true) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  state.query = words.join(" ");
  state.foundAt = -1;
  state.found = !words.length ? [] : model.sides.flatMap((side, index) => {
    const pass = passOf(index), fits = (node) => words.every((word) => `${node.op} ${node.key}`.toLowerCase().includes(word));
    const gone = viewOf(index) === "changes" ? side.gone(pass).filter(fits).map((node) => ({ node, went: true })) : [];
    return [...side.list(pass).filter(fits).map((node) => ({ node, went: false })), ...gone].map(({ node, went }) => ({ key: node.key, op: node.op, went, side: index, constant: node.constant }));
  });
  state.found.sort((one, other) => one.constant - other.constant);
  if (show) listFound();
}

function listFound() {
  const shown = state.found.slice(0, 60);
  get("found").innerHTML = shown.map((one, index) => `<li role="option" data-found="${index}" aria-selected="${index === state.foundAt}">${escape(one.op)} <small>${escape(one.key)}</small> ${tag(one.went ? "went" : "")}</li>`).join("") +
    (state.found.length > shown.length ? `<li>and ${state.found.length - shown.length} more</li>` : "") + (state.query && !shown.length ? "<li>nothing</li>" : "");
  get("found").hidden = !state.query;
  get("query").setAttribute("aria-expanded", String(Boolean(state.query)));
}

function visit(index) {
  if (!state.found.length) return;
  state.foundAt = (index + state.found.length) % state.found.length;
  const { key, went, side } = state.found[state.foundAt];
  listFound();
  go(key, went, side);
}

const KEYS = {
  ArrowDown: () => step(state.pass + 1), ArrowRight: () => step(state.pass + 1),
  ArrowUp: () => step(state.pass - 1), ArrowLeft: () => step(state.pass - 1),
  Home: () => step(0), End: () => step(Infinity),
  "/": () => get("query").focus(), j: () => walk(true), k: () => walk(false), n: () => neighbour(1), p: () => neighbour(-1),
  u: unfold, 1: () => show("changes"), 2: () => show("graph"), 3: () => show("constants"),
  "+": () => zoom("in"), "=": () => zoom("in"), "-": () => zoom("out"), 0: () => zoom("fit"),
  f: () => state.key && canvases[state.side].move(name(state.key, state.went)),
  Escape: () => picked(0, null), t: theme, "?": () => get("help").showModal(),
};

addEventListener("keydown", (event) => {
  const focus = document.activeElement;
  if (event.ctrlKey || event.metaKey || event.altKey || get("help").open) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(focus?.tagName ?? "")) return;
  if ((event.key === "Enter" || event.key === " ") && focus?.closest("svg")) {
    event.preventDefault();
    return picked(canvases.findIndex((canvas) => canvas.svg.contains(focus)), focus.closest("[data-key], [data-fold], [data-turn]"));
  }
  if (focus?.tagName === "PRE" && event.key.startsWith("Arrow")) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

get("query").addEventListener("input", (event) => {
  search(event.target.value);
  light();
});
get("query").addEventListener("keydown", (event) => {
  const by = { Enter: event.shiftKey ? -1 : 1, ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by) {
    event.preventDefault();
    visit(state.foundAt + by);
  } else if (event.key === "Escape") {
    event.target.value = "";
    search("");
    light();
    event.target.blur();
  }
});
get("query").addEventListener("blur", () => setTimeout(() => { get("found").hidden = true; }, 150));
get("query").addEventListener("focus", () => { get("found").hidden = !state.query; });
get("search").addEventListener("submit", (event) => event.preventDefault());

document.addEventListener("click", (event) => {
  const { dataset } = event.target.closest("[data-go], [data-pass], [data-view], [data-zoom], [data-found]") ?? { dataset: {} };
  if ("go" in dataset) go(dataset.go, dataset.gone === "1", Number(dataset.side));
  else if ("pass" in dataset) step(Number(dataset.pass));
  else if ("view" in dataset) show(dataset.view);
  else if ("zoom" in dataset) zoom(dataset.zoom);
  else if ("found" in dataset) visit(Number(dataset.found));
});
get("details").addEventListener("change", (event) => {
  if (event.target.id !== "why") return;
  state.why = Number(event.target.value);
  tell();
  get("why").focus();
});
get("theme").addEventListener("click", theme);
get("keys").addEventListener("click", () => get("help").showModal());
for (const size of ["batch", "seq"]) {
  get(size).value = state.sizes[size];
  get(size).addEventListener("input", (event) => {
    if (!(Number(event.target.value) >= 1)) return;
    state.sizes[size] = Number(event.target.value);
    if (state.colour === "kind") tell();
    else draw();
  });
}
get("colour").innerHTML = ["kind", ...(model.sides[0].times ? ["time"] : []), "flops", "bytes"].map((name) => `<option${name === state.colour ? " selected" : ""}>${name}</option>`).join("");
get("colour").addEventListener("change", (event) => {
  state.colour = event.target.value;
  draw();
});

get("name").textContent = model.sides.map((side) => side.name).join(" beside ");
get("about").textContent = model.sides.map((side) => `${side.precision}${side.target ? ` for ${side.target}` : ""}`).join(" | ");
recall();
draw({ fit: true });
if (state.key) go(state.key, state.went);
document.documentElement.dataset.ready = String(Math.round(performance.now()));
