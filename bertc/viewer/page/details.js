// What is told of a node, or of a pass when no node is chosen: HTML texts.

const WORDS = { came: "came", went: "went", changed: "changed", only: "only here", differs: "differs" };

const link = (key, text = key, went = false, side = 0) =>
  `<button class="to" data-go="${escape(key)}" data-gone="${went ? 1 : 0}" data-side="${side}">${escape(text)}</button>`;

const section = (title, content) => (content ? `<section><h3>${title}</h3>${content}</section>` : "");

const rows = (pairs) => (pairs.length ? `<table>${pairs.map(([head, cell]) => `<tr><th scope="row">${head}</th><td>${cell}</td></tr>`).join("")}</table>` : "");

const tag = (state) => (WORDS[state] ? `<span class="tag ${state}">${WORDS[state]}</span>` : "");

function amount(number, unit) {
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [scale, letter] = steps.find(([scale]) => number >= scale) ?? [1, ""];
  return `${(number / scale).toLocaleString("en", { maximumSignificantDigits: 4 })} ${letter}${unit}`;
}

const milliseconds = (time) => `${time.toLocaleString("en", { maximumSignificantDigits: 3 })} ms`;

const formula = (polynomial) =>
  polynomial.map(([factor, ...names]) => [factor.toLocaleString("en").replaceAll(",", " "), ...names].join(" · ")).join(" + ") || "0";

function attribute(value) {
  return Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
}

// ------------------------------------------------------------------------------------------------------------- a node

function nodeDetails(at, sizes, whyPass) {
  const side = model.sides[at.side], node = side.node(at.pass, at.key, at.went);
  if (!node) return "";
  const pass = at.went ? at.pass - 1 : at.pass, flow = side.flow(pass), op = model.ops[node.op];
  const state = at.went ? "went" : at.view === "changes" ? side.state(at.pass, at.key) : "kept";
  const parts = [`<h2>${escape(node.op)} ${tag(state)}${op?.fused ? '<span class="tag plain">fused</span>' : ""}${
    node.constant && node.op !== "weight" ? '<span class="tag plain">constant</span>' : ""}</h2>`, `<p class="key mono">${escape(node.key)}</p>`];
  if (op) parts.push(`<p>${escape(op.equation).replaceAll("\n\n", "</p><p>").replaceAll("\n", " ")}</p>`);
  parts.push(section("Replaced", replacementText(side, at)));
  parts.push(section("In", operandRows(side, node, op, flow, at)));
  parts.push(section("Out", resultRows(side, node, flow, pass, at)));
  parts.push(section("Attributes", rows(Object.entries(node.attributes).map(([name, value]) => [escape(name), `<code>${escape(attribute(value))}</code>`]))));
  parts.push(section("Weights", weightTexts(side, node, pass, flow)));
  parts.push(section("Cost", costRows(side, node, sizes)));
  parts.push(section(`On ${side.target ?? "each target"}`, fateText(side, node)));
  if (model.sides.length > 1) parts.push(section("The other side", otherText(at, node)));
  parts.push(section("Why not", whyNot(side, at, node, whyPass)));
  parts.push(section("Source", sourceText(node.span)));
  return parts.join("");
}

function replacementText(side, at) {
  if (at.view !== "changes" && !at.went) return "";
  const group = side.replacement(at.pass, at.key, at.went);
  if (!group) return at.went ? "<p>Nothing took its place.</p>" : "";
  const [went, came] = group;
  const list = (keys, gone) => keys.map((key) => {
    const node = side.node(at.pass, key, gone);
    return node ? `<li>${link(key, `${node.op}  ${key}`, gone, at.side)}</li>` : "";
  }).join("");
  return at.went ? `<p>became</p><ul>${list(came, false)}</ul>` : `<p>stands for</p><ul>${list(went, true)}</ul>`;
}

function operandRows(side, node, op, flow, at) {
  return rows(node.inputs.map((value, index) => {
    const name = op?.operands[Math.min(index, op.operands.length - 1)] ?? "";
    if (typeof value !== "string") return [escape(name), `<code>${value}</code>`];
    const producer = flow.producer.get(value), from = producer && side.node(at.went ? at.pass - 1 : at.pass, producer);
    const type = from?.types[from.results.indexOf(value)] ?? "";
    const gone = at.went && side.isGone(at.pass, producer);
    return [escape(name), `${link(producer, value, gone, at.side)}<br><code>${escape(type)}</code>`];
  }));
}

function resultRows(side, node, flow, pass, at) {
  const outputs = Object.entries(side.passes[pass].outputs);
  return rows(node.results.map((value, index) => {
    if (!value) return ["_", `<code>${escape(node.types[index])}</code><br>not read`];
    const readers = (flow.readers.get(value) ?? []).map((key) => link(key, key, at.went && side.isGone(at.pass, key), at.side));
    const named = outputs.filter(([, of]) => of === value).map(([name]) => `output <b>${escape(name)}</b>`);
    const read = [...named, ...readers.slice(0, 6), ...(readers.length > 6 ? [`and ${readers.length - 6} more`] : [])].join(", ");
    const label = node.results.length > 1 || value !== node.key ? `${escape(value)}<br>` : "";
    return [node.results.length > 1 ? String(index) : "type", `${label}<code>${escape(node.types[index])}</code>${read ? `<br>read by ${read}` : ""}`];
  }));
}

function weightTexts(side, node, pass, flow) {
  const found = new Set(node.op === "weight" ? [node.key] : []), queue = [...node.inputs];
  while (queue.length) {
    const producer = flow.producer.get(queue.pop()), from = producer && side.node(pass, producer);
    if (from?.op === "weight") found.add(from.key);
    else if (from?.constant) queue.push(...from.inputs);
  }
  return [...found].map((key) => {
    const weight = side.node(pass, key), stored = side.stored[key], name = side.names[key];
    const type = `<code>${escape(weight.types[0])}</code>${stored && stored !== weight.types[0].split("[")[0] ? `, stored as ${escape(stored)}` : ""}`;
    return `<p>${link(key)}<br>${name ? `in checkpoints <code>${escape(name)}</code><br>` : ""}${type}</p>${histogramText(side.histograms[key])}`;
  }).join("");
}

function histogramText(histogram) {
  if (!histogram) return "";
  const [low, high, mean, deviation, every, counts] = histogram, most = Math.max(...counts, 1);
  const bars = counts.map((count) => `<i style="height:${((count / most) * 100).toFixed(1)}%"></i>`).join("");
  const sampled = every > 1 ? `, of one value in ${every}` : "";
  return `<details><summary>Histogram</summary><div class="histogram" role="img" aria-label="From ${low} to ${high}, mean ${mean}, deviation ${deviation}">` +
    `${bars}</div><div class="ends"><span>${low}</span><span>mean ${mean}, deviation ${deviation}${sampled}</span><span>${high}</span></div></details>`;
}

function costRows(side, node, sizes) {
  if (node.constant) return node.op === "weight" ? "" : "<p>Nothing when the engine runs: it is computed when the engine is built.</p>";
  if (node.op === "input") return "";
  const flops = evaluate(node.flops, sizes), bytes = evaluate(node.bytes, sizes), time = side.times?.nodes[node.key];
  const unknown = !node.flops.length && model.ops[node.op]?.fused;
  const pairs = [
    ["arithmetic", unknown ? "not known" : `${amount(flops, "FLOP")}<br><code>${escape(formula(node.flops))}</code>`],
    ["memory", `${amount(bytes, "B")}<br><code>${escape(formula(node.bytes))}</code>`],
  ];
  if (bytes) pairs.push(["intensity", `${(flops / bytes).toLocaleString("en", { maximumSignificantDigits: 3 })} FLOP/B`]);
  if (time !== undefined) {
    pairs.push(["time", `${milliseconds(time)}, ${((100 * time) / totalTime(side)).toFixed(1)} %`]);
    if (flops) pairs.push(["that is", `${amount((flops / time) * 1e3, "FLOP/s")}, ${amount((bytes / time) * 1e3, "B/s")}`]);
  }
  return rows(pairs);
}

const totalTime = (side) => Object.values(side.times.nodes).reduce((sum, time) => sum + time, side.times.others);

function fateText(side, node) {
  if (node.op === "input") return "";
  if (node.constant) return "<p>Computed when the engine is built.</p>";
  if (!model.ops[node.op]?.fused) return "<p><b>native</b>: the op as it is.</p>";
  return rows(Object.entries(node.fates).map(([target, [how, why]]) => [escape(target), `<b>${escape(how)}</b>${why ? `: ${escape(why)}` : ""}`]));
}

function otherText(at, node) {
  const other = model.sides[1 - at.side], pass = at.otherPass, same = other.node(pass, at.key);
  if (!same) return `<p>${tag("only")} ${escape(other.name)} has no <code>${escape(at.key)}</code> here.</p>`;
  const text = (one) => [one.op, one.inputs.join(", "), one.types.join(", "), ...Object.entries(one.attributes).map(([name, value]) => `${name}=${attribute(value)}`)];
  const [mine, theirs] = [text(node), text(same)];
  const pairs = mine.flatMap((cell, index) => (cell === theirs[index] ? [] : [["here", `<code>${escape(cell)}</code>`], ["there", `<code>${escape(theirs[index] ?? "")}</code>`]]));
  return (pairs.length ? `<p>${tag("differs")}</p>${rows(pairs)}` : "<p>The same.</p>") + `<p>${link(at.key, "Go there", false, 1 - at.side)}</p>`;
}

/** What the rules of a pass made of a node. */
function whyNot(side, at, node, whyPass) {
  const choices = side.passes.map((pass, index) => [pass, index]).filter(([pass]) => pass.rules.length);
  if (!choices.length || node.op === "weight" || node.op === "input") return "";
  const chosen = choices.some(([, index]) => index === whyPass) ? whyPass : choices[0][1];
  const options = choices.map(([pass, index]) => `<option value="${index}"${index === chosen ? " selected" : ""}>${escape(pass.name)}</option>`).join("");
  const texts = side.passes[chosen].rules.map((rule) => attemptText(side, at, node, rule, chosen));
  return `<p><label>pass <select id="why">${options}</select></label></p>${texts.join("")}`;
}

function attemptText(side, at, node, rule, pass) {
  const name = `<b>${escape(rule.name)}</b>`, miss = rule.misses[node.key];
  if (miss) {
    const [fitting, where, reason] = miss;
    return `<p class="reason">${name}: ${escape(reason)}.<br><small>${fitting} of ${rule.pattern} ops fitted; it ended at ${link(where, where, false, at.side)}</small></p>`;
  }
  if (rule.fired.includes(node.key)) return `<p class="reason fired">${name} fires here.</p>`;
  const group = side.passes[pass].replaced.find(([went, came]) => went.includes(node.key) || came.includes(node.key));
  if (group) return `<p class="reason fired">${name}: it is part of a match.</p>`;
  return `<p class="reason">${name}: its left side ends with <code>${escape(rule.root)}</code>, this is <code>${escape(node.op)}</code>.</p>`;
}

function sourceText(span) {
  if (!span || !(span[0] in model.sources)) return "";
  const [file, line, column, length] = span;
  const lines = model.sources[file].split("\n").map((text, index) => {
    const number = `<span class="number">${String(index + 1).padStart(4)}  </span>`;
    if (index + 1 !== line) return number + escape(text);
    const from = column - 1, to = from + length;
    return `<span class="here">${number}${escape(text.slice(0, from))}<b>${escape(text.slice(from, to))}</b>${escape(text.slice(to))}</span>`;
  });
  return `<p class="mono">${escape(file)}:${line}:${column}</p><pre tabindex="0" aria-label="${escape(file)}">${lines.join("\n")}</pre>`;
}

// ------------------------------------------------------------------------------------------------------------- a pass

function passDetails(at, sizes) {
  const side = model.sides[at.side], pass = side.passes[at.pass];
  const nodes = side.list(at.pass).filter((node) => !node.constant);
  const sum = (what) => nodes.reduce((total, node) => total + evaluate(node[what], sizes), 0);
  const before = at.pass ? side.passes[at.pass - 1].ops : null;
  const parts = [`<h2>${escape(pass.name)}</h2>`, rows([
    ["ops", before === null ? String(pass.ops) : `${before} → ${pass.ops}`],
    ...(at.pass ? [["fired", pass.fired === 1 ? "once" : `${pass.fired} times`], ["took", milliseconds(pass.milliseconds)]] : []),
    ["arithmetic", amount(sum("flops"), "FLOP")],
    ["memory", `${amount(sum("bytes"), "B")}, each op by itself`],
  ])];
  if (at.pass && !pass.came.length && !pass.went.length) parts.push("<p>It changed nothing.</p>");
  if (model.sides.length > 1) parts.push(section("What differs", differences(at)));
  if (side.times) parts.push(section("Where the time goes", slowest(side)));
  parts.push(section("Replaced", replacedList(side, at)));
  for (const rule of pass.rules) {
    const misses = Object.entries(rule.misses).sort((one, other) => other[1][0] - one[1][0]);
    const nearest = misses.length ? `<p class="reason">Nearest miss, ${misses[0][1][0]} of ${rule.pattern} ops: ${escape(misses[0][1][2])}. ${link(misses[0][0], misses[0][0], false, at.side)}</p>` : "";
    const nowhere = misses.length || rule.fired.length ? "" : `<p class="reason">There is no <code>${escape(rule.root)}</code> here, which its left side ends with.</p>`;
    parts.push(section(`Rule ${escape(rule.name)}`, `<pre tabindex="0">${escape(rule.text)}</pre>${nearest}${nowhere}`));
  }
  return parts.join("");
}

/** Groups that are alike but for their layer stand once. */
function replacedList(side, at) {
  const alike = new Map();
  for (const [went, came] of side.passes[at.pass].replaced) {
    const ops = (keys, gone) => keys.map((key) => side.node(at.pass, key, gone)?.op).filter(Boolean).join(", ");
    const text = `${ops(came, false)} ← ${ops(went, true)}`;
    alike.set(text, [...(alike.get(text) ?? []), came[0] ?? went[0]]);
  }
  return [...alike].map(([text, keys]) => `<p>${escape(text)}${keys.length > 1 ? ` <b>× ${keys.length}</b>` : ""}<br>${link(keys[0], keys[0], false, at.side)}</p>`).join("");
}

/** Ops of the same name in several layers stand together. */
function slowest(side) {
  const groups = new Map(), total = totalTime(side);
  for (const [key, time] of Object.entries(side.times.nodes)) {
    const inside = insideLayer(key), group = groups.get(inside) ?? { key, time: 0, slowest: 0, count: 0 };
    groups.set(inside, { key: time > group.slowest ? key : group.key, time: group.time + time, slowest: Math.max(time, group.slowest), count: group.count + 1 });
  }
  const sorted = [...groups].sort((one, other) => other[1].time - one[1].time), most = sorted[0][1].time;
  const lines = sorted.slice(0, 14).map(([inside, { key, time, count }]) =>
    `<tr><td>${link(key, inside)}${count > 1 ? ` × ${count}` : ""}<span class="share" style="width:${((100 * time) / most).toFixed(1)}%"></span></td>` +
    `<td class="number">${milliseconds(time)}</td><td class="number">${((100 * time) / total).toFixed(1)} %</td></tr>`);
  return `<p>${milliseconds(total)} in all${side.times.others ? `, ${milliseconds(side.times.others)} of it in what has no node here` : ""}</p><table>${lines.join("")}</table>`;
}

function differences(at) {
  const [one, other] = model.sides, pairs = [];
  const names = [...new Set([...Object.keys(one.sizes), ...Object.keys(other.sizes)])];
  for (const name of names) if (one.sizes[name] !== other.sizes[name]) pairs.push([escape(name), `${one.sizes[name] ?? "–"} | ${other.sizes[name] ?? "–"}`]);
  for (const name of ["precision", "target"]) if (one[name] !== other[name]) pairs.push([name, `${escape(one[name] ?? "–")} | ${escape(other[name] ?? "–")}`]);
  const without = (side, than) => side.passes.map((pass) => pass.name).filter((name) => !than.passes.some((pass) => pass.name === name));
  const [left, right] = [without(one, other), without(other, one)];
  if (left.length || right.length) pairs.push(["passes", `${escape(left.join(", ") || "–")} | ${escape(right.join(", ") || "–")}`]);
  const passes = model.sides.map((side) => side.passes[side === one ? (at.side ? at.otherPass : at.pass) : at.side ? at.pass : at.otherPass]);
  pairs.push(["pass", `${escape(passes[0].name)} | ${escape(passes[1].name)}`], ["ops", `${passes[0].ops} | ${passes[1].ops}`]);
  return rows(pairs);
}
