"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const text = byId("text"), output = byId("output"), status = byId("status"), tip = byId("tip");
  const END = "</s>", SPACE = "\u2581", PAUSE = 250, ALTERNATIVES = 4, SURE = 0.95;
  const notes = new WeakMap();  // token element -> the lines of its tip
  let timer = 0, under_way = null;

  function element(name, className, content) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  const probability = (share) => share.toFixed(share > 0 && share < 0.01 ? 4 : 3);

  // As the pages of the report do: the less sure the darker, striped below one half.
  function shade(made, share) {
    made.style.setProperty("--doubt", (0.75 * (1 - share)).toFixed(3));
    made.classList.toggle("unsure", share < 0.5);
  }

  // ---- a translation ----

  function tokenElement(token, position) {
    const end = token.token === END;
    const shown = end ? "end" : token.token.replaceAll(SPACE, " ").replace(/^ /, "") || "\u2423";
    const made = element("span", "token" + (end ? " end" : ""), shown);
    const own = Math.exp(token.log_prob);
    const note = [[end ? "end of sentence" : shown, probability(token.confidence)]];
    if (Math.abs(own - token.confidence) > 0.002) note.push(["the model itself", probability(own)]);
    notes.set(made, note);
    shade(made, token.confidence);
    made.dataset.probability = token.confidence.toFixed(2);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", note.map((each) => each.join(" ")).join("; "));
    made.tabIndex = position ? -1 : 0;  // one stop for the tab key; arrows inside
    return made;
  }

  function tokens(translation) {
    const box = element("span", "tokens");
    const spelled = translation.tokens.filter((token) => token.token !== END).map((token) => token.token).join("");
    if (spelled.replaceAll(SPACE, " ").trim() !== translation.translation.trim()) {
      box.append(translation.translation, " ");  // what its pieces do not spell, such as a line that is kept as it is
    }
    // The end of a sentence is shown where it is not sure.
    translation.tokens.filter((token) => token.token !== END || token.confidence < SURE).forEach((token, position) => {
      if (position && (token.token === END || token.token.startsWith(SPACE))) box.append(" ");
      box.append(tokenElement(token, position));
    });
    return box;
  }

  function figures(line) {
    const made = element("div", "figures");
    made.append(element("span", "", "confidence " + probability(line.confidence)));
    if (line.quality !== undefined) {
      made.append(element("span", "", "expected chrF " + line.quality.toFixed(1)
        + " (" + Math.round(line.quality_low) + "–" + Math.round(line.quality_high) + ")"));
    }
    if (line.flagged) made.append(element("span", "flag", "\u2691 flagged"));
    return made;
  }

  function alternatives(line, open) {
    const made = element("details", "alternatives"), list = element("ol");
    const count = line.alternatives.length;
    made.open = open;
    for (const other of line.alternatives) {
      const entry = element("li");
      entry.append(tokens(other), element("span", "", probability(other.confidence)));
      list.append(entry);
    }
    made.append(element("summary", "", count + (count === 1 ? " alternative" : " alternatives")), list);
    return made;
  }

  function show(lines) {
    hideTip();
    output.replaceChildren(...lines.filter((line) => line.source.trim()).map((line) => {
      const made = element("div", "told");
      if (lines.length > 1) {
        made.append(element("p", "source", line.source));
        made.firstChild.lang = text.lang;
      }
      made.append(tokens(line), figures(line));
      if (line.alternatives.length) made.append(alternatives(line, lines.length === 1));
      return made;
    }));
  }

  // ---- the server ----

  function say(message, wrong, translation) {
    status.textContent = message;
    status.classList.toggle("error", Boolean(wrong));
    byId("spoken").textContent = wrong ? message : translation || "";
    output.classList.toggle("stale", Boolean(wrong));  // what stands there is of another text
  }

  async function translate() {
    if (under_way) under_way.abort();
    if (!text.value.trim()) {
      say("");
      show([]);
      return;
    }
    const mine = under_way = new AbortController(), began = performance.now();
    output.classList.add("stale");
    try {
      const response = await fetch("translate", {
        method: "POST",
        signal: mine.signal,
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ q: text.value, source: text.dataset.source, target: text.dataset.target,
          alternatives: ALTERNATIVES, tokens: true }),
      });
      const told = await response.json();
      if (mine !== under_way) return;
      if (response.ok) {
        show(told.lines);
        say("in " + ((performance.now() - began) / 1000).toFixed(2) + " s", false, told.translatedText);
      } else {
        say(told.error, true);
      }
    } catch (error) {
      if (mine === under_way && error.name !== "AbortError") say("the server does not answer; is it still running?", true);
    }
  }

  function typed() {
    text.style.height = "auto";  // as high as what it holds
    text.style.height = text.scrollHeight + 2 + "px";
    const length = [...text.value].length;
    byId("count").textContent = length + " of " + text.dataset.most + " characters";
  }

  text.addEventListener("input", (event) => {
    typed();
    clearTimeout(timer);
    if (!event.isComposing) timer = setTimeout(translate, PAUSE);
  });
  text.addEventListener("compositionend", () => { timer = setTimeout(translate, PAUSE); });
  window.addEventListener("resize", typed);

  // ---- the tip: under the token, inside the window ----

  function showTip(made) {
    tip.replaceChildren(...notes.get(made).map((cells, index) => {
      const entry = element("div", index ? "" : "chosen");
      entry.append(element("span", "", cells[0]), element("b", "", cells[1]));
      return entry;
    }));
    tip.hidden = false;
    const box = made.getClientRects()[0], own = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8));
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = box.bottom + 6 + window.scrollY + "px";
  }

  function hideTip() {
    tip.hidden = true;
    tip.style.left = tip.style.top = "0";
  }

  const tokenAt = (event) => event.target.closest ? event.target.closest("#output .token") : null;
  for (const name of ["pointerover", "focusin"]) {
    output.addEventListener(name, (event) => tokenAt(event) ? showTip(tokenAt(event)) : hideTip());
  }
  for (const name of ["pointerleave", "focusout"]) output.addEventListener(name, hideTip);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  output.addEventListener("keydown", (event) => {
    const token = tokenAt(event);
    if (!token) return;
    const all = [...token.parentElement.querySelectorAll(".token")], at = all.indexOf(token);
    const to = all[{ ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key]];
    if (!to) return;
    event.preventDefault();
    token.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });

  byId("numbers").addEventListener("input", () => output.classList.toggle("probabilities", byId("numbers").checked));
  for (const key of document.querySelectorAll(".token[data-confidence]")) shade(key, Number(key.dataset.confidence));
  typed();
  translate();
})();
