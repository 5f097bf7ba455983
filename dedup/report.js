"use strict";
// A set's numbers are counted anew at each threshold; its gallery is only built when it is looked at.
(() => {
  const SCALE = 10000;
  const byId = (id) => document.getElementById(id);
  const sets = [...document.querySelectorAll("script.numbers")].map((node) => JSON.parse(node.textContent));
  const start = sets.map((set) => set.threshold);
  const floor = Number(document.body.dataset.floor) * SCALE;
  const slider = byId("slider"), field = byId("field"), picker = byId("set"), gallery = byId("gallery");
  const AT_ONCE = 24; // cards that are made at a time
  let current = 0, pairs = [], cards = [];

  const REFUSED = { gate: "the thumbnails differ", inliers: "too few keypoints agree", shape: "no plausible map", common: "little in common",
    spread: "only a part agrees", correlation: "the pixels differ",
    content: "what stands on the plain ground differs", colour: "the colours differ" };

  const element = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Similarities fall, so the examples at or above a threshold are a prefix, found by halving.
  const above = (set, threshold) => {
    let low = 0, high = set.similarity.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (set.similarity[middle] >= threshold) low = middle + 1; else high = middle;
    }
    return low;
  };

  const hitsBefore = (set) => {
    if (!set.hits) {
      set.hits = [0];
      for (const right of set.correct || []) set.hits.push(set.hits[set.hits.length - 1] + right);
    }
    return set.hits;
  };

  const count = (set, threshold) => {
    const overlap = above(set, threshold), clean = set.examples - overlap;
    const share = set.examples ? overlap / set.examples : 0;
    if (set.right === null || !clean || !set.examples) return { overlap, share, delta: null };
    const hits = hitsBefore(set)[overlap];
    const accClean = (set.right - hits) / clean;
    return { overlap, share, accClean, accOverlap: overlap ? hits / overlap : null, delta: set.right / set.examples - accClean };
  };

  const percent = (value) => { // as pipeline/formats.py
    if (value === null || value === undefined) return "–";
    const share = 100 * value;
    if (share === 0 || share === 100) return `${share}%`;
    if (share > 99.9) return "> 99.9%";
    const even = (10 * share) % 2 === 0.5 ? Math.floor(10 * share) / 10 : share; // a tie, as Python rounds it
    return share >= 1 ? `${even.toFixed(1)}%` : share < 0.01 ? "< 0.01%" : `${Number(share.toPrecision(2))}%`;
  };
  const points = (value) => {
    if (value === null || value === undefined) return "–";
    const text = (100 * value).toFixed(2);
    return Number(text) === 0 ? "0" : (value > 0 ? "+" : "") + text;
  };

  const show = () => {
    const set = sets[current], found = count(set, set.threshold);
    slider.value = set.threshold;
    field.value = (set.threshold / SCALE).toFixed(4);
    slider.setAttribute("aria-valuetext", `similarity ${field.value}, ${found.overlap} examples overlap`);
    byId("overlap").textContent = `${found.overlap.toLocaleString("en")} of ${set.examples.toLocaleString("en")}`;
    byId("contamination").textContent = percent(found.share);
    byId("delta").textContent = points(found.delta);
    byId("accuracies").textContent = `${percent(found.accOverlap)} / ${percent(found.accClean)}`;
    for (const node of document.querySelectorAll(".accuracy")) node.hidden = set.right === null;
    const moved = set.threshold !== start[current];
    byId("moved").textContent = moved ? `was ${(start[current] / SCALE).toFixed(4)} in this run` : "as in this run";
    for (const card of cards) card.node.classList.toggle("below", card.similarity < set.threshold);
    byId("cursor").setAttribute("x1", place(set.threshold));
    byId("cursor").setAttribute("x2", place(set.threshold));
    const changed = sets.filter((one, number) => one.threshold !== start[number]).length;
    byId("export").textContent = `Export thresholds (${changed} changed)`;
  };

  const place = (threshold) => (300 * (threshold - floor)) / (SCALE - floor || 1);

  const sweep = () => {
    const set = sets[current], line = [];
    const most = Math.max(count(set, floor).share, 1e-9);
    for (let step = 0; step <= 150; step += 1) {
      const threshold = floor + ((SCALE - floor) * step) / 150;
      line.push(`${place(threshold).toFixed(1)},${(75 - (71 * count(set, threshold).share) / most).toFixed(1)}`);
    }
    byId("curve").setAttribute("points", line.join(" "));
    byId("from").textContent = (floor / SCALE).toFixed(2);
    byId("most").textContent = percent(count(set, floor).share);
  };

  const setThreshold = (value) => {
    sets[current].threshold = Math.min(SCALE, Math.max(floor, Math.round(value)));
    show();
  };

  const picture = (data, alt) => {
    if (!data) return element("span", "gone", "no picture");
    const image = element("img");
    image.src = "data:image/webp;base64," + data;
    image.alt = alt;
    image.loading = "lazy";
    return image;
  };

  const card = (pair, number, total) => {
    const node = element("li", "card");
    node.tabIndex = 0;
    node.setAttribute("aria-label", `Pair ${number + 1} of ${total}, similarity ${(pair.similarity / SCALE).toFixed(3)}`);
    const head = element("header");
    head.append(element("span", "", (pair.similarity / SCALE).toFixed(4)), " ", element("span", "soft", pair.verified ? "verified" : `not verified: ${REFUSED[pair.refused]}`));
    if (!pair.verified) node.classList.add("refused");
    const both = element("div", "pair");
    both.append(picture(pair.left, "evaluation image"), picture(pair.right, "training image"));
    const list = element("dl");
    const rows = [["example", pair.id + (pair.label ? ` (${pair.label})` : "")], ["caption", pair.caption], ["URL", pair.url], ["uid", pair.uid],
      ["found as", pair.view + (pair.mirrored ? ", mirrored" : "")],
      ["checked", `${pair.inliers} keypoints agree` + (pair.correlation ? `, correlation ${pair.correlation}` : "")]];
    if (pair.learned && document.body.dataset.detectors) rows.push(["found by", pair.hashes ? `hashes ${pair.hashes}, detector ${pair.learned}` : `detector alone ${pair.learned}`]);
    else if (document.body.dataset.detectors) rows.push(["found by", `hashes alone ${pair.hashes}`]);
    if (pair.correct !== null) rows.push(["model", pair.correct ? "right" : "wrong"]);
    for (const [name, value] of rows) {
      if (value) list.append(element("dt", "", name), element("dd", name === "caption" || name === "URL" ? "long" : "", value));
    }
    const button = element("button", "", "Threshold here");
    button.type = "button";
    button.addEventListener("click", () => setThreshold(pair.similarity));
    node.append(head, both, list, button);
    node.similarity = pair.similarity;
    return { node, similarity: pair.similarity };
  };

  const more = byId("more");
  const showMore = () => {
    const made = pairs.slice(cards.length, cards.length + AT_ONCE).map((pair, place) => card(pair, cards.length + place, pairs.length));
    cards.push(...made);
    gallery.append(...made.map((one) => one.node));
    more.hidden = cards.length === pairs.length;
    more.textContent = `Show ${Math.min(AT_ONCE, pairs.length - cards.length)} more of ${pairs.length} pairs`;
    show();
  };

  const open = (number) => {
    current = number;
    picker.value = String(number);
    const source = document.querySelectorAll("script.gallery-data")[number];
    pairs = JSON.parse(source.textContent);
    cards = [];
    gallery.replaceChildren();
    document.querySelectorAll("section.detail").forEach((node, place) => { node.hidden = place !== number; });
    byId("shown").textContent = source.dataset.shown;
    sweep();
    showMore();
  };

  const step = (by) => {
    const place = cards.findIndex((one) => one.node === document.activeElement || one.node.contains(document.activeElement));
    if (place + by >= cards.length && cards.length < pairs.length) showMore();
    const next = cards[Math.min(cards.length - 1, Math.max(0, place + by))];
    if (next) { next.node.focus(); next.node.scrollIntoView({ block: "nearest" }); }
  };

  byId("export").addEventListener("click", () => {
    const thresholds = Object.fromEntries(sets.map((set) => [set.name, set.threshold / SCALE]));
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify({ thresholds }, null, 1) + "\n"], { type: "application/json" }));
    link.download = "thresholds.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  more.addEventListener("click", showMore);
  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  field.addEventListener("change", () => setThreshold(Number(field.value) * SCALE));
  picker.addEventListener("change", () => open(Number(picker.value)));
  document.querySelectorAll("button.open").forEach((button, number) => button.addEventListener("click", () => {
    open(number);
    byId("look").scrollIntoView();
    picker.focus({ preventScroll: true });
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "n") open((current + 1) % sets.length);
    else if (event.key === "p") open((current + sets.length - 1) % sets.length);
    else if (event.key === "t") {
      const found = cards.find((one) => one.node === document.activeElement);
      if (found) setThreshold(found.similarity);
    }
  });
  slider.min = floor;
  field.min = floor / SCALE;
  byId("interactive").hidden = false;
  open(Number(document.body.dataset.worst));
})();
