"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const minus = (text) => text.replace("-", "\u2212");

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A heading that sorts: a real button; the heading says how its column is sorted.
  function sortable(head, whenSorted, firstDirection) {
    const button = element("button", "", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now === "descending" ? "ascending" : firstDirection;
      mark(head, next);
      whenSorted(next);
    });
  }

  function mark(head, direction) {
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
  }

  // ---- tables of figures ----

  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value || cell.textContent.trim().replace("\u2212", "-");
    const number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => sortable(head, (direction) => {
      const sign = direction === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column))));
    }, head.classList.contains("number") ? "descending" : "ascending"));
  }

  // ---- the translations ----

  const UNITS = 10000, END = "</s>", SPACE = "\u2581";
  const data = JSON.parse(byId("data").textContent);
  const rows = data.rows, several = data.systems.length > 1;
  const list = byId("rows"), tip = byId("tip"), heads = byId("heads"), controls = byId("controls");
  const described = new WeakMap();  // token element -> what its tip says
  let found = [], shown = 0, order = null, direction = 1;

  const probability = (units) => (units / UNITS).toFixed(units > 0 && units < UNITS / 100 ? 4 : 3);
  // How doubtful: 0 sure, 1 not at all. On the logarithmic scale 1 is a probability of 0.01 or less.
  const doubt = (share) => byId("scale").value === "linear"
    ? 1 - share : Math.min(1, -Math.log10(Math.max(share, 1e-4)) / 2);

  for (const row of rows) {
    for (const output of row.o) {
      if (output.t) {
        output.t = output.t.map((index) => data.vocabulary[index]);
        output.pieces = output.t.some((token) => token.includes(SPACE));
      }
      const spell = () => output.t.filter((token) => token !== END).map((token, i) => spaced(output, token, i)).join("").trim();
      output.text = output.h !== undefined ? output.h : spell();
    }
    row.words = [row.s, ...row.o.map((output) => output.text), ...row.r].join("\n").toLowerCase();
  }

  // SentencePiece marks a space before a token with U+2581; other systems' tokens stand apart by spaces.
  function spaced(output, token, position) {
    if (output.pieces) return token.replaceAll(SPACE, position ? " " : "");
    return (position ? " " : "") + token;
  }

  const lowest = (row, key) => {
    const known = row.o.map((output) => output[key]).filter((value) => value !== null && value !== undefined);
    return known.length ? Math.min(...known) : null;
  };
  const show = (digits, sign) => (value) =>
    value === null ? "–" : minus((sign && value > 0 ? "+" : "") + value.toFixed(digits));
  const confidence = (value) => value === null ? "–" : probability(value);
  const spread = (row) => {
    const known = row.o.map((output) => output.q).filter((value) => value !== null);
    return known.length ? Math.max(...known) - Math.min(...known) : null;
  };
  const difference = (row) => row.o.some((output) => output.q === null) ? null : row.o[1].q - row.o[0].q;
  const interval = (output) => output.i ? output.i.join("–") : "";  // of the expected chrF

  const columns = [
    { name: "Line", value: (row) => row.n, show: String },
    { name: several ? "Least confidence" : "Confidence", value: (row) => lowest(row, "c"), show: confidence },
    { name: several ? "Least expected chrF" : "Expected chrF", value: (row) => lowest(row, "e"), show: show(1),
      note: several ? () => "" : (row) => interval(row.o[0]) },
    ...(several ? [
      data.systems.length === 2  // by size: the filters tell the sides apart
        ? { name: "chrF B\u00a0−\u00a0A", value: difference, by: spread, show: show(1, true), first: "descending" }
        : { name: "Largest difference of chrF", value: spread, by: spread, show: show(1), first: "descending" },
    ] : [
      { name: "chrF", value: (row) => row.o[0].q, show: show(1) },
      { name: "BLEU", value: (row) => row.o[0].b, show: show(1) },
      { name: "Length", value: (row) => row.o[0].text.length, show: String, first: "descending" },
    ]),
  ].filter((column, index) => !index || rows.some((row) => column.value(row) !== null));

  const judged = data.by === "quality" ? "e" : "c", scale = judged === "c" ? UNITS : 1;
  const limit = () => byId("threshold").value === "" ? null : scale * byId("threshold").valueAsNumber;
  const flagged = (output) => Boolean(output.f) || (limit() !== null && output[judged] !== null && output[judged] < limit());
  const filters = {
    all: () => true,
    flagged: (row) => row.o.some(flagged),
    wrong: (row) => row.o.some((output) => Boolean(output.w) && output.w.includes("0")),
    unsure: (row) => row.o.some((output) => Boolean(output.p) && output.p.some((units) => 2 * units < UNITS)),
    empty: (row) => Boolean(row.s.trim()) && row.o.some((output) => !output.text.trim()),
    differ: (row) => row.o.some((output) => output.text !== row.o[0].text),
  };
  data.systems.forEach((_, index) => {
    filters["better-" + index] = (row) => row.o.every((output) => output.q !== null) && row.o.every((output, other) => other === index || row.o[index].q > output.q);
  });

  function shade(made, share) {
    made.style.setProperty("--doubt", (0.75 * doubt(share)).toFixed(3));
    made.classList.toggle("unsure", share < 0.5);
    made.dataset.confidence = share;
  }

  function tokenElement(output, position) {
    const token = output.t[position], end = token === END, units = output.p[position];
    const text = end ? "end" : spaced(output, token, position).replace(/^ /, "");
    const wrong = output.w && output.w[position] === "0";
    const made = element("span", "token" + (wrong ? " wrong" : "") + (end ? " end" : "") + (text ? "" : " space"), text || "\u2423");
    const others = (output.a && output.a[position]) || [];
    const alternatives = [];
    for (let i = 0; i < others.length; i += 2) alternatives.push([data.vocabulary[others[i]], others[i + 1]]);
    const remarks = [];
    if (output.u) remarks.push("the model itself said " + probability(output.u[position]));
    if (output.u && alternatives.length) remarks.push("the others by the model itself");
    const said = output.l ? ["people found it wrong", "people found it right"] : ["does not align with the reference", "aligns with the reference"];
    if (output.w && output.w[position] !== "?") remarks.push(said[wrong ? 0 : 1]);
    shade(made, units / UNITS);
    made.dataset.probability = (units / UNITS).toFixed(2);
    const name = (piece) => piece === END ? "end of sentence" : piece.replaceAll(SPACE, "\u2423");
    const spoken = [name(end ? END : text) + " " + probability(units), ...remarks];
    if (alternatives.length) {
      spoken.push("else " + alternatives.map(([piece, other]) => name(piece).replaceAll("\u2423", "") + " " + probability(other)).join(", "));
    }
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", spoken.join("; "));
    made.tabIndex = position ? -1 : 0;  // one stop for the tab key a translation; arrows inside
    described.set(made, { lines: [[name(token), units], ...alternatives.map(([piece, other]) => [name(piece), other])], remarks });
    return made;
  }

  function tokens(output) {
    const box = element("span", "tokens");
    output.t.forEach((token, position) => {
      if (token === END || /^\s/.test(spaced(output, token, position))) box.append(" ");
      box.append(tokenElement(output, position));
    });
    return box;
  }

  function line(name, content) {
    const made = element("div", "line");
    made.append(element("span", "", name), typeof content === "string" ? element("span", "", content) : content);
    made.lastChild.dir = "auto";
    return made;
  }

  function outputLine(output, index) {
    const content = element("span");
    content.append(output.t && output.p ? tokens(output) : output.text);
    if (several) {
      const figures = [output.c === null ? "" : "confidence " + confidence(output.c),
        output.e === null ? "" : "expected chrF " + output.e.toFixed(1) + (output.i ? " (" + interval(output) + ")" : ""),
        output.q === null ? "" : "chrF " + output.q.toFixed(1),
        output.b === null ? "" : "BLEU " + output.b.toFixed(1)];
      content.append(element("span", "figures", figures.filter(Boolean).join(" · ")));
    }
    if (flagged(output)) content.append(" ", element("span", "flag", "\u2691 flagged"));
    return line(several ? String.fromCharCode(65 + index) : "output", content);
  }

  function lineLink(number) {
    const link = element("a", "", String(number));
    link.href = "#line-" + number;
    return link;
  }

  // What another judge says: its score and, where it found errors, the translation with these marked.
  function judgeLine([name, score, parts]) {
    const content = element("span", "judged");
    for (const [text, severity] of parts) {
      const part = element(severity ? "mark" : "span", "", text);
      if (severity) part.title = severity;
      content.append(part);
      if (severity) content.append(element("span", "hidden", " (" + severity + ")"));
    }
    content.append(element("span", "figures", score.toFixed(3)));
    return line(name, content);
  }

  function rowElement(row) {
    const made = element("tr");
    made.setAttribute("role", "row");
    made.id = "line-" + row.n;
    for (const column of columns) {
      const cell = element("td", "number", column === columns[0] ? "" : column.show(column.value(row)));
      if (column === columns[0]) cell.append(lineLink(row.n));
      cell.dataset.label = column.name;
      if (column.note && column.note(row)) cell.append(" ", element("span", "interval", column.note(row)));
      made.append(cell);
    }
    const text = element("td", "text");
    text.append(line("source", row.s));
    row.o.forEach((output, index) => text.append(outputLine(output, index), ...(output.j || []).map(judgeLine)));
    row.r.forEach((reference, index) => text.append(line("reference" + (row.r.length > 1 ? " " + (index + 1) : ""), reference)));
    made.append(text);
    for (const cell of made.cells) cell.setAttribute("role", "cell");
    return made;
  }

  function more(count = shown ? 100 : 20) {  // few at first: figures follow below
    const part = document.createDocumentFragment();
    const next = found.slice(shown, shown + count);
    part.append(...next.map(rowElement));
    list.append(part);
    shown += next.length;
    byId("further").hidden = shown >= found.length;
    byId("save").disabled = !found.length;
    byId("count").textContent = found.length + " of " + rows.length + " translations"
      + (shown < found.length ? ", the first " + shown + " are shown" : "");
  }

  function redraw() {
    hideTip();
    const wanted = byId("search").value.toLowerCase(), filter = filters[byId("show").value];
    found = rows.filter((row) => filter(row) && row.words.includes(wanted));
    found.sort((a, b) => {
      const by = order.by || order.value, x = by(a), y = by(b);
      if (x === null || y === null) return (x === null) - (y === null) || a.n - b.n;  // unknown last
      return direction * (x - y) || a.n - b.n;
    });
    list.replaceChildren();
    shown = 0;
    more();
  }

  // ---- a line by its address, and the lines as a table ----

  // #line-12 opens line 12 wherever it is: behind "Show more", or left out by a filter.
  function openLine() {
    const number = Number((/^#line-(\d+)$/.exec(location.hash) || [])[1]);
    if (!number) return;
    const place = () => found.findIndex((row) => row.n === number);
    if (place() < 0 && rows.some((row) => row.n === number)) {
      byId("search").value = "";
      byId("show").value = "all";
      redraw();
    }
    if (place() < 0) {
      byId("count").textContent = "Line " + number + " is not in this page; all lines are in records.jsonl";
      byId("translations").scrollIntoView();
      return;
    }
    if (place() >= shown) more(place() + 1 - shown);
    for (const before of list.querySelectorAll(".linked")) before.classList.remove("linked");
    const made = byId("line-" + number);
    made.classList.add("linked");
    made.tabIndex = -1;
    made.focus({ preventScroll: true });
    made.scrollIntoView({ block: "center", behavior: "instant" });
  }

  // One row a line that was found; what would end a cell or a row becomes a space.
  function table() {
    const score = (value, by = 1) => value === null ? "" : value / by;
    const row = (cells) => cells.map((cell) => String(cell).replace(/[\t\n\v\f\r\u0085\u2028\u2029]+/g, " ")).join("\t") + "\n";
    const parts = [["translation", (output) => output.text], ["confidence", (output) => score(output.c, UNITS)],
      ["expected chrF", (output) => score(output.e)], ["chrF", (output) => score(output.q)],
      ["BLEU", (output) => score(output.b)], ["flagged", (output) => Number(flagged(output))]];
    const names = data.systems.flatMap((_, index) =>
      parts.map(([name]) => several ? String.fromCharCode(65 + index) + " " + name : name));
    const references = rows.length ? rows[0].r.map((_, index) => "reference" + (index ? " " + (index + 1) : "")) : [];
    return row(["line", "source", ...names, ...references]) + found.map((each) =>
      row([each.n, each.s, ...each.o.flatMap((output) => parts.map(([, value]) => value(output))), ...each.r])).join("");
  }

  function save() {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/tab-separated-values" }));
    link.download = "translations.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- the tip: under the token, inside the window ----

  function showTip(made) {
    const note = described.get(made);
    tip.replaceChildren();
    note.lines.forEach(([piece, units], index) => {
      const entry = element("div", index ? "" : "chosen");
      entry.append(element("span", "", piece), element("b", "", probability(units)));
      tip.append(entry);
    });
    for (const remark of note.remarks) tip.append(element("span", "remark", remark));
    tip.hidden = false;
    const box = made.getClientRects()[0], own = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8));
    const above = box.bottom + own.height + 12 > window.innerHeight && box.top > own.height + 12;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = (above ? box.top - own.height - 6 : box.bottom + 6) + window.scrollY + "px";
  }

  function hideTip() {
    tip.hidden = true;
    tip.style.left = tip.style.top = "0";
  }

  const tokenAt = (event) => event.target.closest ? event.target.closest("#rows .token") : null;
  for (const name of ["pointerover", "focusin"]) {
    list.addEventListener(name, (event) => tokenAt(event) ? showTip(tokenAt(event)) : hideTip());
  }
  for (const name of ["pointerleave", "focusout"]) list.addEventListener(name, hideTip);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  list.addEventListener("keydown", (event) => {
    const token = tokenAt(event);
    if (!token) return;
    const all = [...token.parentElement.querySelectorAll(".token")], at = all.indexOf(token);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (!all[to]) return;
    token.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });

  // ---- start ----

  for (const column of columns) {
    const head = element("th", "number" + (column.name.length > 8 ? " wide" : ""), column.name);
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    heads.append(head);
    column.head = head;
    sortable(head, (next) => { order = column; direction = next === "ascending" ? 1 : -1; redraw(); }, column.first || "ascending");
  }
  const textHead = element("th", "text", several ? "Source, outputs, reference" : "Source, output, reference");
  textHead.setAttribute("role", "columnheader");
  heads.append(textHead);
  order = (several && columns.find((column) => column.by === spread)) || columns[1] || columns[0];
  direction = order.first ? -1 : 1;
  mark(order.head, order.first || "ascending");

  function reshade() {
    for (const made of document.querySelectorAll(".token[data-confidence]")) shade(made, Number(made.dataset.confidence));
  }
  if (data.threshold !== null) byId("threshold").value = data.threshold;
  controls.addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["search", "show", "threshold"]) byId(id).addEventListener("input", redraw);
  byId("scale").addEventListener("input", reshade);
  byId("numbers").addEventListener("input", () => list.classList.toggle("probabilities", byId("numbers").checked));
  for (const [id, count] of [["more", undefined], ["whole", rows.length]]) {
    byId(id).addEventListener("click", () => {
      const before = shown;
      more(count);
      if (byId("further").hidden) { const next = list.rows[before]; if (next) { next.tabIndex = -1; next.focus(); } }
    });
  }
  byId("save").addEventListener("click", save);
  redraw();
  reshade();
  openLine();
  window.addEventListener("hashchange", openLine);
})();
