// Views of one dataset. The address after "#" says what is shown: #/samples?q=dog&site=example.com.
// What comes from the server is text of strangers: it only ever becomes text nodes and attribute values.

const main = document.getElementById("main");
const words = document.getElementById("words");
const footer = document.getElementById("selection");
const announce = document.getElementById("status");
const PAGE = 60; // pictures that are asked for at a time
const ROWS = 200; // of a table
const selected = new Set();
let info = null;
let turn = 0; // of the view that is shown: answers for earlier ones are dropped

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value) => (value === null || value === undefined ? "" : Number(value).toLocaleString("en"));
const short = (value) => {
  const rounded = Number.isInteger(value) ? value : Number(Number(value).toPrecision(4));
  return Number.isInteger(rounded) ? number(rounded) : String(rounded);
};

async function ask(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  const answer = await fetch(`api/${path}?${query}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// Show these in place of what was there.
function put(...children) {
  main.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

function place() {
  const [path, query] = location.hash.slice(1).split("?");
  const [view, ...rest] = (path || "/samples").slice(1).split("/");
  return { view: view || "samples", id: decodeURIComponent(rest.join("/")), given: Object.fromEntries(new URLSearchParams(query)) };
}

function go(view, given = {}, id = "") {
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value !== "" && value !== undefined)).toString();
  location.hash = `/${view}${id ? `/${encodeURIComponent(id)}` : ""}${query ? `?${query}` : ""}`;
}

const link = (text, view, given, id) => {
  const query = new URLSearchParams(given ?? {}).toString();
  return element("a", { href: `#/${view}${id ? `/${encodeURIComponent(id)}` : ""}${query ? `?${query}` : ""}` }, text);
};

// An address of the web: opened only by a click, in a tab that knows nothing of this one.
const outside = (url) => {
  if (!/^https?:\/\//i.test(url ?? "")) return document.createTextNode(url ?? "");
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer external", title: "Opens the site itself, which sees that you look" }, url);
};

// Rows that come in pages as the end of the list comes into view: each says where the next begins, if there is one.
function endless(load, show, into) {
  const mine = turn;
  const end = element("div", { "aria-hidden": "true" });
  let next = 0, busy = false, done = false;
  const more = async () => {
    if (busy || done || mine !== turn) return;
    busy = true;
    try {
      const page = await load(next);
      if (mine !== turn) return;
      page.rows.forEach((row) => into.append(show(row)));
      next = page.next;
      done = !next;
      if (done) watch.disconnect();
    } catch (error) {
      done = true;
      main.append(element("p", { class: "error" }, error.message));
    }
    busy = false;
    if (done) return;
    watch.unobserve(end); // it tells changes alone: asked anew, it tells whether the end is in view now
    watch.observe(end);
  };
  const watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "800px" });
  into.after(end);
  watch.observe(end);
  return more();
}

// Pages of a list that is asked for by the number of rows before.
const counted = (load, size = PAGE) => async (offset) => {
  const rows = await load(offset);
  return { rows, next: rows.length < size ? 0 : offset + rows.length };
};

function cell(row, note = "") {
  const ratio = Math.min(4, Math.max(0.4, (row.width || 1) / (row.height || 1)));
  const caption = (row.caption || "").split("\n")[0];
  const made = element(
    "button",
    { class: `cell${row.kept === false ? " outside" : ""}`, type: "button", "data-uid": row.uid, "aria-label": caption || row.url || row.uid,
      "aria-pressed": String(selected.has(row.uid)), onclick: (event) => (event.ctrlKey || event.metaKey ? toggle(made) : go("sample", {}, row.uid)) },
    element("img", { src: `api/image/${encodeURIComponent(row.uid)}`, alt: "", loading: "lazy", width: row.width, height: row.height }),
    element("span", {}, note ? `${note} ${caption}` : caption),
  );
  made.style.setProperty("--ratio", ratio);
  return made;
}

function toggle(button) {
  const uid = button.dataset.uid;
  if (!selected.delete(uid)) selected.add(uid);
  button.setAttribute("aria-pressed", String(selected.has(uid)));
  showSelection();
}

function showSelection() {
  footer.hidden = selected.size === 0;
  footer.replaceChildren(
    element("strong", {}, `${number(selected.size)} selected`),
    exporter({ uids: [...selected] }, `selection-${selected.size}`),
    exporter({ uids: [...selected], form: "webdataset" }, `selection-${selected.size}`, "Save as WebDataset"),
    element("button", { type: "button", onclick: () => copyTakedown() }, "Copy takedown command"),
    element("button", { type: "button", onclick: () => { selected.clear(); showSelection(); document.querySelectorAll('[aria-pressed="true"]').forEach((one) => one.setAttribute("aria-pressed", "false")); } }, "Clear"),
  );
}

async function copyTakedown() {
  const rows = await Promise.all([...selected].map((uid) => ask(`sample/${encodeURIComponent(uid)}`)));
  const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const command = `openwit takedown --run ${quoted(info.name)} ${rows.map((row) => `--url ${quoted(row.url)}`).join(" ")}`;
  await navigator.clipboard.writeText(command).catch(() => {});
  announce.textContent = "The command is on the clipboard.";
  footer.append(element("code", {}, command));
}

const post = (path, body) => fetch(`api/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// A list of uids for --keep and --drop of the other commands, or a shard of the samples themselves.
function exporter(body, name, label = "Save as a list") {
  return element("button", { type: "button", onclick: async (event) => {
    const answer = await post("export", { name, ...body });
    const found = answer.ok ? await answer.json() : null;
    const text = found ? `${number(found.samples)} ${body.form ? "samples" : "uids"} in ${found.path}` : await answer.text();
    announce.textContent = text;
    event.target.after(element("output", {}, text));
  } }, label);
}

// The address of what is shown, under a name that the list of views has.
function saver() {
  const name = element("input", { "aria-label": "Name of this view", placeholder: "name of this view", maxlength: 80 });
  return element("form", { class: "inline", onsubmit: async (event) => {
    event.preventDefault();
    const answer = await post("views", { name: name.value, view: location.hash || "#/samples" });
    announce.textContent = answer.ok ? `${name.value} is among the views.` : await answer.text();
    event.target.append(element("output", {}, announce.textContent));
  } }, name, element("button", {}, "Save view"));
}

function title(text) {
  document.title = `${text} · openwit browse`;
  return element("h1", {}, text);
}

async function samples(given, rejected = false) {
  const mine = turn;
  const view = rejected ? "rejects" : "samples";
  const parameters = { ...given, ...(rejected ? { rejected: 1 } : {}) };
  const bar = element("div", { class: "bar" });
  const list = rejected ? element("tbody") : element("div", { class: "grid" });
  const whole = rejected
    ? element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, element("table", { class: "rejects" }, element("thead", {}, element("tr", {}, ...["reason", "caption", "URL", "detail"].map((name) => element("th", {}, name)))), list))
    : list;
  put(title(rejected ? "Rejected" : "Samples"), bar, whole);
  await filters(bar, given, view, rejected);
  const show = rejected ? rejectedRow : (row) => cell(row, given.sort ? short(row[given.sort.replace("-", "")] ?? 0) : "");
  await endless(async (after) => {
    const page = await ask("samples", { ...parameters, after, limit: rejected ? ROWS : PAGE });
    if (mine !== turn) return page;
    if (!after) {
      const total = `${page.is_exact ? "" : "over "}${number(page.total)}`;
      bar.prepend(element("strong", {}, total), document.createTextNode(rejected ? "rows" : "samples"));
      announce.textContent = `${total} found`;
      if (!page.is_exact) countAll(parameters, bar.querySelector("strong"));
    }
    const none = !page.next && !page.samples.length && !list.children.length;
    if (none) main.append(element("p", {}, "Nothing matches. Take a filter away, or search for another word."));
    return { rows: page.samples, next: page.next };
  }, show, list);
}

// A page counts no further than it reads; the whole count comes when its pictures are there.
async function countAll(parameters, shown) {
  const mine = turn;
  const found = await ask("samples", { ...parameters, limit: 0, count: 1 }).catch(() => null);
  if (found && mine === turn) shown.textContent = `${found.is_exact ? "" : "over "}${number(found.total)}`;
}

const thumb = (row) => (row.picture ? element("img", { class: "thumb", src: row.picture, alt: "the picture as it was fetched", loading: "lazy" }) : null);
const rejectedRow = (row) => element("tr", {}, element("td", { class: "word" }, link(row.reason, "rejects", { reason: row.reason }), element("br"), `in ${row.stage}`),
  element("td", {}, thumb(row), row.caption), element("td", {}, outside(row.url)),
  element("td", {}, row.reason === "merged_into" ? link(row.detail, "sample", {}, row.detail) : row.detail));

async function filters(bar, given, view, rejected) {
  const kinds = rejected ? ["reason", "stage", "site"] : info.facets.filter((kind) => !["reason", "stage", "shard"].includes(kind));
  const set = (changes) => go(view, { ...given, ...changes });
  for (const [name, value] of Object.entries(given)) {
    if (name === "q" || name === "sort" || (kinds.includes(name) && name !== "site")) continue;
    bar.append(element("button", { type: "button", class: "chip", title: "Take this filter away", onclick: () => set({ [name]: "" }) }, `${name.replace("min_", "least ").replace("max_", "most ")}: ${value} ×`));
  }
  const lists = await Promise.all(kinds.map((kind) => ask("facets", { kind, of: rejected ? "rejects" : "samples", limit: 60 })));
  kinds.forEach((kind, index) => {
    if (lists[index].length === 0 || given[kind] && kind === "site") return;
    const column = rejected ? "rejects" : "samples";
    bar.append(element("select", { "aria-label": kind, onchange: (event) => set({ [kind]: event.target.value }) },
      element("option", { value: "" }, `any ${kind}`),
      ...lists[index].map((one) => element("option", { value: one.value, selected: given[kind] === one.value }, `${one.value} (${number(one[column])})`))));
  });
  if (rejected) return;
  bar.append(element("select", { "aria-label": "sort", onchange: (event) => set({ sort: event.target.value }) },
    element("option", { value: "" }, "in the set's order"),
    ...info.numbers.flatMap((name) => [`-${name}`, name].map((sort) => element("option", { value: sort, selected: given.sort === sort }, `by ${name}, ${sort === name ? "least" : "most"} first`)))));
  bar.append(exporter(given, "filter"), saver());
}

async function sample(uid) {
  const row = await ask(`sample/${encodeURIComponent(uid)}`);
  const stored = row.stored ?? {};
  const facts = Object.entries({ ...stored, ...Object.fromEntries(info.numbers.filter((name) => row[name] !== undefined).map((name) => [name, row[name]])) })
    .filter(([name, value]) => !["caption", "captions", "key", "uid", "query_ids", "matched_query_ids", "url", "page_url"].includes(name) && value !== null && value !== "");
  const captions = (row.caption ?? "").split("\n").filter(Boolean);
  const picture = row.url === undefined ? null : element("img", { src: `api/image/${encodeURIComponent(uid)}`, alt: captions[0] ?? "" });
  const table = (rows) => element("div", { class: "facts" }, element("table", {}, element("tbody", {}, ...rows)));
  const pair = (name, ...value) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, ...value));
  put(
    title(captions[0] ?? uid),
    element("div", { class: "sample" },
      element("div", {}, picture),
      element("div", {},
        ...captions.map((text) => element("blockquote", {}, text)),
        info.semantic && picture ? element("p", {}, link("Pictures like this one", "similar", { uid })) : null,
        row.queries?.length ? element("h2", {}, "Queries") : null,
        row.queries?.length ? element("p", {}, ...row.queries.flatMap((query, index) => [element("span", { class: query.keeps ? "keeps" : "" }, link(query.query, "query", {}, query.id)), query.keeps ? " keeps it" : "", index + 1 < row.queries.length ? "; " : ""])) : null,
        table([
          pair("image", outside(row.url)), ...(row.page_url ? [pair("page", outside(row.page_url))] : []), pair("uid", uid), pair("key", `${row.key ?? ""} in `, link(row.shard ?? "", "samples", { shard: (row.shard ?? "").split("/").pop().replace(/\.[^.]*$/, "") })),
          ...facts.map(([name, value]) => pair(name.replaceAll("_", " "), typeof value === "number" ? short(value) : typeof value === "object" ? JSON.stringify(value) : String(value))),
        ]),
        row.rejected?.length ? element("h2", {}, "Rejected or merged") : null,
        row.rejected?.length ? table(row.rejected.map(rejectedRow)) : null,
      )),
  );
}

async function queries(given) {
  const list = element("tbody");
  const sort = given.sort || "-kept";
  const columns = ["query", "matched", "kept", "present", "short"];
  const head = columns.map((name) => element("th", { class: name === "query" ? "" : "number", scope: "col" }, link(name, "queries", { ...given, sort: name === "query" ? name : `-${name}` })));
  put(title("Queries"), element("p", {}, "matched: samples whose caption has the query's words. kept: those that the cap leaves it. present: all in the set, also for the sake of other queries. short: how many it lacks."),
    element("div", { class: "bar" }, element("input", { type: "search", placeholder: "Find a query", "aria-label": "Find a query", value: given.q ?? "", onchange: (event) => go("queries", { ...given, q: event.target.value }) })),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), list)));
  await endless(counted((offset) => ask("queries", { q: given.q, sort, offset, limit: ROWS }), ROWS),
    (row) => element("tr", {}, element("td", {}, link(row.query, "query", {}, row.id)), ...columns.slice(1).map((name) => element("td", { class: "number" }, number(row[name])))), list);
}

async function query(id) {
  const first = await ask(`query/${encodeURIComponent(id)}`, { limit: 0 });
  const found = first.query;
  const list = element("div", { class: "grid" });
  put(title(found.query),
    element("p", {}, `${number(found.matched)} samples matched this query. It keeps ${number(found.kept)}: those whose hash of (seed, image, query) is smallest. `
      + `${number(found.present)} samples of the set contain it; the pale ones are there for other queries. The number is the hash, from 0 to 1.`),
    element("p", {}, link("All of them, with filters", "samples", { query: id }), "; ", link("captions with these words that were left out for the cap", "rejects", { reason: "over_cap", q: `"${found.query}"` })), list);
  await endless(async (after) => {
    const page = await ask(`query/${encodeURIComponent(id)}`, { after, limit: PAGE });
    return { rows: page.samples, next: page.next };
  }, (row) => cell(row, row.priority.toFixed(4)), list);
}

async function sites(given) {
  const rows = await ask("facets", { kind: "site", q: given.q, limit: 1000, of: given.of });
  const column = (name, text) => element("th", { class: "number", scope: "col" }, link(text, "sites", { ...given, of: name }));
  put(title("Sites"),
    element("div", { class: "bar" }, element("input", { type: "search", placeholder: "Begins with", "aria-label": "Begins with", value: given.q ?? "", onchange: (event) => go("sites", { ...given, q: event.target.value }) })),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "site"), column("samples", "samples"), column("rejects", "rejected rows"))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, element("td", {}, link(row.value, "samples", { site: row.value })),
        element("td", { class: "number" }, number(row.samples)), element("td", { class: "number" }, link(number(row.rejects), "rejects", { site: row.value }))))))));
}

// A cut through a column: how many are on either side, and what lies just below and just above it.
async function numbers(given) {
  const column = given.column || info.numbers[0];
  const bins = await ask("histogram", { column });
  const choice = element("select", { "aria-label": "column", onchange: (event) => go("numbers", { column: event.target.value }) }, ...info.numbers.map((name) => element("option", { value: name, selected: name === column }, name)));
  put(title("Distributions"), element("div", { class: "bar" }, choice));
  if (!bins.length) return main.append(element("p", {}, "This column has no values."));
  const low = bins[0][0], width = bins[1][0] - low, high = low + width * bins.length;
  const most = Math.max(1, ...bins.map(([, count]) => count)), total = bins.reduce((sum, [, count]) => sum + count, 0);
  const bars = bins.map(([from, count]) => { const bar = element("i", { title: `${short(from)} to ${short(from + width)}: ${number(count)} samples` }); bar.style.height = `${(100 * count) / most}%`; return bar; });
  const slider = element("input", { type: "range", min: low, max: high, step: (high - low) / 1000, value: given.cut || (low + high) / 2, "aria-label": `Cut of ${column}` });
  const said = element("p"), edge = element("div"), acts = element("div", { class: "bar" });
  const read = () => {
    const cut = Number(slider.value), at = (cut - low) / width;
    const above = bins.reduce((sum, [, count], index) => sum + count * Math.min(1, Math.max(0, index + 1 - at)), 0);
    bars.forEach((bar, index) => bar.classList.toggle("out", index + 1 <= at));
    said.textContent = `A cut at ${short(cut)} keeps about ${number(Math.round(above))} of ${number(total)} samples (${short((100 * above) / total)}%).`;
  };
  const look = async () => {
    const mine = turn, cut = slider.value, name = short(Number(cut));
    acts.replaceChildren(link(`Those of ${name} and more`, "samples", { [`min_${column}`]: cut, sort: column }), link("those below", "samples", { [`max_${column}`]: cut, sort: `-${column}` }),
      exporter({ [`min_${column}`]: cut }, `${column}-from-${name.replaceAll(/[^0-9A-Za-z]/g, "_")}`), element("code", {}, column.startsWith("score_") ? `openwit train --keep-if "${column} >= ${Number(Number(cut).toPrecision(4))}"` : ""));
    const [below, above] = await Promise.all([{ [`max_${column}`]: cut, sort: `-${column}` }, { [`min_${column}`]: cut, sort: column }].map((filter) => ask("samples", { ...filter, limit: 12 })));
    if (mine !== turn) return;
    const grid = (page) => element("div", { class: "grid small" }, ...page.samples.map((row) => cell(row, short(row[column]))));
    edge.replaceChildren(element("h2", {}, "Just below"), grid(below), element("h2", {}, "Just above"), grid(above));
  };
  slider.addEventListener("input", read);
  slider.addEventListener("change", look);
  main.append(
    element("figure", { class: "histogram" },
      element("div", { class: "plot", role: "img", "aria-label": `Samples by ${column}, from ${short(low)} to ${short(high)}; at most ${number(most)} in one of ${bins.length} bins` }, ...bars), slider,
      element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, short(low)), element("span", {}, column), element("span", {}, short(high)))),
    said, acts, edge);
  read();
  await look();
}

// Groups of pictures of the set that look alike, by their perceptual hashes.
async function alike() {
  const list = element("div");
  put(title("Near-duplicates"), element("p", {}, "Pictures of the set whose perceptual hashes differ in at most 31 of 256 bits from the first of their group. The number is the distance. The page of a sample has what was merged into it."), list);
  await endless(counted((offset) => ask("stars", { offset, limit: 20 }), 20), (group) => element("section", {}, element("h2", {}, `${number(group[0].members)} pictures`),
    element("div", { class: "grid small" }, ...group.map((row) => cell(row, `${row.distance}`)))), list);
}

async function overlap(given) {
  const mine = turn;
  const reports = await ask("overlap");
  const all = reports.flatMap((report, index) => report.sets.map((set) => ({ ...set, report: index, folder: report.folder })));
  const share = (one) => one.bins.reduce((sum, count, index) => sum + (one.low + ((index + 1) * (1 - one.low)) / one.bins.length >= (one.threshold ?? 1) ? count : 0), 0) / (one.examples || 1);
  all.sort((a, b) => share(b) - share(a)); // the most contaminated first
  const set = all.find((one) => one.name === given.set && String(one.report) === (given.report ?? String(one.report))) ?? all[0];
  if (!set) return put(title("Overlap"), element("p", {}, "The report has no sets."));
  const choice = element("select", { "aria-label": "evaluation set", onchange: (event) => { const one = all[event.target.value]; go("overlap", { set: one.name, report: one.report }); } },
    ...all.map((one, index) => element("option", { value: index, selected: one === set }, reports.length > 1 ? `${one.name} in ${one.folder}` : one.name)));
  const slider = element("input", { type: "range", min: set.low, max: 1, step: 0.001, value: given.at || set.threshold || 1, "aria-label": "Threshold of similarity" });
  const said = element("p", { role: "status" }), list = element("div"), most = Math.max(1, ...set.bins);
  const bars = set.bins.map((count) => { const bar = element("i"); bar.style.height = `${(100 * count) / most}%`; return bar; });
  const read = () => {
    const at = (Number(slider.value) - set.low) / ((1 - set.low) / set.bins.length || 1);
    bars.forEach((bar, index) => bar.classList.toggle("out", index + 1 <= at));
  };
  const look = async () => {
    const cut = slider.value;
    const page = await ask(`overlap/${set.report}`, { dataset: set.name, most: cut, before: 12, limit: 24 });
    if (mine !== turn || cut !== slider.value) return;
    said.textContent = `At ${short(Number(cut))}, ${number(page.above)} of ${number(set.examples)} examples overlap (verified pairs; the report's threshold is ${short(set.threshold ?? 1)}).`;
    const [above, below] = [true, false].map((side) => page.pairs.filter((pair) => (pair.similarity >= Number(cut)) === side));
    list.replaceChildren(...[["Just above", above], ["Just below", below]].filter(([, pairs]) => pairs.length)
      .flatMap(([name, pairs]) => [element("h2", {}, name), element("div", { class: "pairs" }, ...pairs.map((pair) => pairOf(set, pair)))]));
  };
  slider.addEventListener("input", read);
  slider.addEventListener("change", look);
  put(title(`Overlap with ${set.name}`), element("div", { class: "bar" }, choice),
    element("figure", { class: "histogram" }, element("div", { class: "plot", role: "img", "aria-label": `Verified pairs by similarity, from ${short(set.low)} to 1` }, ...bars), slider,
      element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, short(set.low)), element("span", {}, "similarity"), element("span", {}, "1"))), said, list);
  read();
  await look();
}

function pairOf(set, pair) {
  const query = new URLSearchParams({ dataset: set.name, example: pair.example_id });
  const state = pair.verified ? "verified" : `not verified: ${pair.refused}`;
  return element("figure", { class: `pair${pair.verified ? "" : " outside"}` },
    element("img", { src: `api/overlap/${set.report}/picture?${query}`, alt: `evaluation image ${pair.example_id}`, loading: "lazy" }),
    element("a", { href: `#/sample/${encodeURIComponent(pair.uid)}` }, element("img", { src: `api/image/${encodeURIComponent(pair.uid)}`, alt: `training image: ${pair.caption || pair.uid}`, loading: "lazy" })),
    element("figcaption", {}, element("b", {}, pair.similarity.toFixed(4)), ` ${state}${pair.mirrored ? ", mirrored" : ""}; ${pair.example_id}; ${(pair.caption || "").split("\n")[0]}`));
}

// Search by meaning: what a text says, what looks like a sample, or like a picture of yours.
async function similar(given) {
  const list = element("div", { class: "grid" });
  const file = element("input", { type: "file", accept: "image/*", "aria-label": "A picture of yours", onchange: async () => {
    const answer = await fetch("api/similar", { method: "POST", body: file.files[0] });
    if (!answer.ok) return main.append(element("p", { class: "error" }, await answer.text()));
    list.replaceChildren(...(await answer.json()).samples.map((row) => cell(row, row.similarity.toFixed(3))));
  } });
  const text = element("input", { type: "search", value: given.text ?? "", "aria-label": "Describe a picture", placeholder: "Describe a picture" });
  put(title(given.uid ? "Pictures like this one" : "By meaning"),
    element("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); go("similar", { text: text.value }); } }, text, element("button", {}, "Find"), "or a picture of yours", file),
    given.uid ? element("p", {}, link("The picture", "sample", {}, given.uid)) : null, list);
  if (given.text || given.uid) await endless(counted(async (offset) => (await ask("similar", { ...given, offset, limit: PAGE })).samples), (row) => cell(row, row.similarity.toFixed(3)), list);
}

async function views() {
  const found = Object.entries(await ask("views"));
  const drop = async (name) => { await post("views", { name, view: "" }); show(); };
  put(title("Saved views"), found.length ? element("ul", {}, ...found.map(([name, view]) => element("li", {}, element("a", { href: view }, name), " ", element("button", { type: "button", onclick: () => drop(name), "aria-label": `Remove ${name}` }, "×"))))
    : element("p", {}, "None yet. Samples and their filters can be saved under a name."));
}

async function live() {
  const mine = turn;
  const state = await ask("live");
  if (mine !== turn) return;
  const rows = state.steps.map((step) => element("tr", {}, element("td", { class: "word" }, step.step),
    element("td", {}, element("progress", { value: step.tasks, max: Math.max(step.tasks_total, 1), "aria-label": step.step })),
    element("td", { class: "number" }, `${number(step.tasks)} / ${number(step.tasks_total)}`), element("td", { class: "number" }, number(step.images)),
    element("td", { class: "number" }, step.bytes ? `${short(step.bytes / 1e6)} MB` : ""), element("td", { class: "number" }, short(step.rate)), element("td", { class: "number" }, step.ended ? "done" : step.seconds_left === null ? "" : `${number(Math.round(step.seconds_left))} s left`)));
  const told = (step) => Object.keys(step.reasons ?? {}).length;
  const current = state.steps.findLast((step) => told(step) && !step.ended) ?? state.steps.findLast((step) => told(step) && step.step.startsWith("fetch")) ?? state.steps.findLast(told);
  put(title(`The run is ${state.state}`),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, element("table", {}, element("thead", {}, element("tr", {}, ...["step", "progress", "tasks", "images", "bytes", "per second", "time"].map((name, index) => element("th", { scope: "col", class: index > 1 ? "number" : "" }, name)))), element("tbody", {}, ...rows))),
    current ? element("h2", {}, `Reasons in ${current.step}`) : null,
    current ? element("table", {}, element("tbody", {}, ...Object.entries(current.reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => element("tr", {}, element("td", {}, reason || "fetched"), element("td", { class: "number" }, number(count)))))) : null);
  const [pictures, troubled] = state.state === "complete" ? [[], []] : await Promise.all(["arrived", "troubled"].map((place) => ask(place).catch(() => [])));
  if (mine !== turn) return;
  if (troubled.length) main.append(element("h2", {}, "Sites that fail most, lately"), element("table", {}, element("tbody", {}, ...troubled.map((one) => element("tr", {}, element("td", {}, one.site), element("td", {}, `${one.reason}, most often`), element("td", { class: "number" }, `${number(one.failed)} of ${number(one.of)}`))))));
  if (pictures.length) main.append(element("h2", {}, "Last to arrive"), element("div", { class: "grid small" }, ...pictures.map((row) => element("img", { class: "arrived", src: `api/arrived/${encodeURIComponent(row.uid)}`, alt: row.url, title: row.url }))));
  if (state.state === "running") setTimeout(() => mine === turn && live(), 2000);
}

const VIEWS = { samples, rejects: (given) => samples(given, true), queries, sites, numbers, alike, overlap, similar, views, live };
const NAMES = [["samples", "Samples"], ["similar", "By meaning"], ["queries", "Queries"], ["sites", "Sites"], ["rejects", "Rejected"], ["alike", "Duplicates"], ["overlap", "Overlap"], ["numbers", "Distributions"], ["views", "Views"], ["live", "Run"]];
const HAS = { similar: "semantic", queries: "queries", rejects: "rejects", alike: "stars", overlap: "overlaps" };

async function show() {
  turn += 1;
  const { view, id, given } = place();
  const shown = NAMES.filter(([name]) => (name === "live" ? info.is_run : info.is_indexed && (!HAS[name] || info[HAS[name]])));
  document.getElementById("views").replaceChildren(...shown.map(([name, text]) => element("a", { href: `#/${name}`, "aria-current": view === name ? "page" : undefined }, text)));
  words.value = ["samples", "rejects"].includes(view) ? given.q ?? "" : "";
  put();
  try {
    if (view === "sample") await sample(id);
    else if (view === "query") await query(id);
    else await (VIEWS[view] ?? samples)(given);
  } catch (error) {
    put(title("Not found"), element("p", { class: "error" }, error.message));
  }
}

document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const { view, given } = place();
  const where = view === "rejects" ? "rejects" : "samples";
  go(where, { ...(view === where ? given : {}), q: words.value });
});

document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !typing) { event.preventDefault(); words.focus(); return; }
  if (event.key === "Escape") { if (typing) document.activeElement.blur(); else if (place().view === "sample") history.back(); return; }
  if (typing) return;
  const cells = [...document.querySelectorAll(".cell")];
  const at = cells.indexOf(document.activeElement);
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  if (event.key in steps && cells.length) { event.preventDefault(); cells[Math.min(cells.length - 1, Math.max(0, at + steps[event.key]))].focus(); }
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && at >= 0) {
    const box = cells[at].getBoundingClientRect(), down = event.key === "ArrowDown";
    const others = cells.filter((one) => { const top = one.getBoundingClientRect().top; return down ? top > box.top + 5 : top < box.top - 5; });
    const line = others.length ? (down ? others[0] : others.at(-1)).getBoundingClientRect().top : 0;
    const near = others.filter((one) => Math.abs(one.getBoundingClientRect().top - line) < 5).sort((a, b) => Math.abs(a.getBoundingClientRect().left - box.left) - Math.abs(b.getBoundingClientRect().left - box.left));
    if (near.length) { event.preventDefault(); near[0].focus(); }
  }
  if (event.key === "x" && at >= 0) toggle(cells[at]);
});

window.addEventListener("hashchange", show);
info = await ask("info");
if (!info.is_indexed && !location.hash) location.hash = "/live";
else await show();
