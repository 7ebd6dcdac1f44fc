"use strict";
// Draws the report from the JSON in #data.  Text from logs enters the page only as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const { diagrams } of data.sections) {
    for (const line of diagrams.flatMap((diagram) => diagram.lines)) line.x = data.spans[line.x];
  }
  const charts = [];
  const hidden = new Set(); // indices of hidden runs
  const HEIGHT = 230;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (run) => css(`--c${run % 8}`);

  // Five digits at most: 12,345; 0.01234; 1.2e-7.
  function format(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e9)) return value.toExponential(digits - 2);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(digits)));
  }

  // Labels of an axis, with as many digits as distinguish them.
  function ticks(values) {
    const shown = values.filter((value) => value !== null);
    const largest = Math.max(...shown.map(Math.abs));
    return values.map((value) => {
      if (value === null) return "";
      if (value === 0) return "0";
      if (largest >= 1e6) return `${Number((value / 1e6).toPrecision(6))}M`;
      if (largest >= 1e4) return `${Number((value / 1e3).toPrecision(6))}k`;
      if (largest < 1e-2) return value.toExponential().replace(/(\.\d{2})\d+/, "$1");
      return String(Number(value.toPrecision(6)));
    });
  }

  // The first and last update of some diagrams.
  function extent(diagrams) {
    const lines = diagrams.flatMap((diagram) => diagram.lines);
    return [Math.min(...lines.map((line) => line.x[0])), Math.max(...lines.map((line) => line.x.at(-1)))];
  }

  // The lines' points over all their updates: [updates, values of line 0, low, high, line 1, ...].
  // Includes the updates `ends`, so that diagrams with the same ends show the same span.
  function align(lines, ends) {
    const all = new Set(ends);
    for (const line of lines) for (const x of line.x) all.add(x);
    const updates = [...all].sort((a, b) => a - b);
    const index = new Map(updates.map((x, i) => [x, i]));
    const columns = [updates];
    for (const line of lines) {
      for (const values of line.low ? [line.y, line.low, line.high] : [line.y]) {
        const column = new Array(updates.length).fill(null);
        line.x.forEach((x, i) => { column[index.get(x)] = values[i]; });
        columns.push(column);
      }
    }
    return columns;
  }

  // The value at or nearest to an index; a line need not have a value at every update.
  function nearest(column, index) {
    for (let step = 0; step < column.length; step++) {
      if (column[index - step] !== null && column[index - step] !== undefined) return column[index - step];
      if (column[index + step] !== null && column[index + step] !== undefined) return column[index + step];
    }
    return null;
  }

  let zooming = false;
  function zoom(from) {
    if (zooming) return;
    zooming = true;
    const { min, max } = from.scales.x;
    for (const chart of charts) {
      if (chart.plot !== from && chart.section === from.section) chart.plot.setScale("x", { min, max });
    }
    zooming = false;
  }

  class Chart {
    constructor(diagram, section, ends) {
      this.diagram = diagram;
      this.section = section;
      this.logarithmic = false;
      this.element = make("figure");
      const caption = make("figcaption", "", diagram.title);
      if (diagram.unit) caption.append(make("span", "unit", diagram.unit));
      if (diagram.lines.every((line) => line.y.every((y) => y > 0))) {
        const toggle = make("button", "", "log");
        toggle.type = "button";
        toggle.title = "Logarithmic axis";
        toggle.setAttribute("aria-pressed", "false");
        toggle.onclick = () => {
          this.logarithmic = !this.logarithmic;
          toggle.setAttribute("aria-pressed", String(this.logarithmic));
          this.draw();
        };
        caption.append(toggle);
      }
      this.place = make("div", "plot");
      this.legend = make("div", "legend");
      this.element.append(caption, this.place, this.legend);
      this.columns = align(diagram.lines, ends);
      this.off = new Set(); // indices of lines hidden in this chart
      this.outputs = [];
      this.buildLegend();
    }

    buildLegend() {
      const runs = new Set(this.diagram.lines.map((line) => line.run));
      this.diagram.lines.forEach((line, number) => {
        const button = make("button");
        button.type = "button";
        const swatch = make("span", `swatch ${line.style}`);
        swatch.style.borderTopColor = `var(--c${line.run % 8})`;
        const name = runs.size > 1 || !line.label ? data.runs[line.run] : "";
        const output = make("output", "", "");
        button.append(swatch, [name, line.label].filter(Boolean).join(" · "), output);
        button.onclick = () => {
          if (!this.off.delete(number)) this.off.add(number);
          this.show();
        };
        this.outputs.push([button, output]);
        this.legend.append(button);
      });
      this.where = make("span", "other");
      this.legend.prepend(this.where);
      for (const text of this.remarks()) this.legend.append(make("span", "other", text));
    }

    remarks() {
      const { band, level, published } = this.diagram, texts = [];
      if (band) texts.push(`shaded: healthy, ${format(band[0])} of ${format(band[1])} codes or more`);
      if (level) texts.push(`line: ${level[0]}, ${format(level[1])}`);
      if (published.length) texts.push("marks: published, mean ± deviation of 8 seeds");
      return texts;
    }

    // uPlot's index of each line's mean; the low and high of a thinned line follow.
    positions() {
      let next = 1;
      return this.diagram.lines.map((line) => {
        const position = next;
        next += line.low ? 3 : 1;
        return position;
      });
    }

    visible(number) {
      return !this.off.has(number) && !hidden.has(this.diagram.lines[number].run);
    }

    show() {
      this.diagram.lines.forEach((line, number) => {
        const shown = this.visible(number);
        const position = this.positions()[number];
        for (let offset = 0; offset < (line.low ? 3 : 1); offset++) {
          this.plot.setSeries(position + offset, { show: shown }, false);
        }
        this.outputs[number][0].setAttribute("aria-pressed", String(shown));
      });
      this.values(null);
    }

    values(index) {
      const at = index === null || index === undefined ? null : index;
      this.where.textContent = at === null ? "last" : `at ${this.columns[0][at].toLocaleString("en")}`;
      this.positions().forEach((position, number) => {
        const line = this.diagram.lines[number];
        const value = at === null ? line.y[line.y.length - 1] : nearest(this.columns[position], at);
        let text = format(value);
        if (line.low && at !== null) {
          text += ` (${format(nearest(this.columns[position + 1], at))} … ${format(nearest(this.columns[position + 2], at))})`;
        }
        this.outputs[number][1].textContent = text;
      });
    }

    series() {
      const found = [{ label: "update" }];
      for (const line of this.diagram.lines) {
        const stroke = () => color(line.run);
        const dash = { solid: undefined, dashed: [6, 4], dotted: [2, 3] }[line.style];
        const few = line.x.length <= (line.style === "solid" ? 1 : 40);
        found.push({
          label: line.label, stroke, width: line.low ? 1.6 : 1.4, dash, spanGaps: true,
          points: { show: few, size: 5, fill: stroke },
        });
        if (line.low) {
          const edge = { label: "", stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
          found.push({ ...edge }, { ...edge });
        }
      }
      return found;
    }

    bands() {
      return this.diagram.lines.flatMap((line, number) => {
        const position = this.positions()[number];
        return line.low
          ? [{ series: [position + 2, position + 1], fill: () => `color-mix(in srgb, ${color(line.run)} 24%, transparent)` }]
          : [];
      });
    }

    // Behind the curves: the healthy range, a level, published values.
    background(plot) {
      const { ctx, bbox } = plot, { band, level, published } = this.diagram;
      const y = (value) => plot.valToPos(value, "y", true);
      const ratio = devicePixelRatio;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      if (band) {
        ctx.fillStyle = css("--healthy");
        ctx.fillRect(bbox.left, y(band[1]), bbox.width, y(band[0]) - y(band[1]));
      }
      ctx.strokeStyle = ctx.fillStyle = css("--soft");
      ctx.lineWidth = ratio;
      if (level) {
        ctx.setLineDash([4 * ratio, 4 * ratio]);
        ctx.beginPath();
        ctx.moveTo(bbox.left, y(level[1]));
        ctx.lineTo(bbox.left + bbox.width, y(level[1]));
        ctx.stroke();
        ctx.setLineDash([]);
      }
      for (const [update, mean, deviation] of published) {
        const x = plot.valToPos(update, "x", true);
        ctx.beginPath();
        ctx.moveTo(x, y(mean - deviation));
        ctx.lineTo(x, y(mean + deviation));
        ctx.stroke();
        ctx.beginPath();
        ctx.arc(x, y(mean), 3 * ratio, 0, 2 * Math.PI);
        ctx.fill();
      }
      ctx.restore();
    }

    range(plot, low, high) {
      let min = low, max = high;
      if (min === null || min === undefined) return [0, 1];
      const { level, published, unit } = this.diagram;
      if (level) { min = Math.min(min, level[1]); max = Math.max(max, level[1]); }
      for (const [, mean, deviation] of published) {
        min = Math.min(min, mean - deviation);
        max = Math.max(max, mean + deviation);
      }
      if (this.logarithmic) return uPlot.rangeLog(min, max, 10, true);
      // An axis starts at 0 where that costs little space, or where 0 is the value to compare with.
      if (min >= 0 && (unit === "%" || unit === "codes" || min < 0.4 * max)) {
        return [0, max > 0 ? max * 1.06 : 1];
      }
      const margin = (max - min || Math.abs(max) || 1) * 0.06;
      return [min - margin, max + margin];
    }

    draw() {
      const x = this.plot && { ...this.plot.scales.x };
      if (this.plot) this.plot.destroy();
      const axis = (size, more) => ({
        stroke: () => css("--soft"), font: "11px system-ui, sans-serif", size,
        grid: { stroke: () => css("--grid"), width: 1 },
        ticks: { stroke: () => css("--rule"), width: 1, size: 4 }, gap: 5, ...more,
      });
      this.plot = new uPlot({
        width: Math.max(this.place.clientWidth, 200), height: HEIGHT,
        legend: { show: false },
        padding: [10, 14, 0, 0],
        cursor: {
          drag: { x: true, y: false, setScale: true }, points: { size: 6 },
          sync: { key: this.section, setSeries: false, filters: { pub: (type) => type.startsWith("mousem") || type === "mouseleave" } },
        },
        scales: {
          x: { time: false },
          y: { distr: this.logarithmic ? 3 : 1, range: (plot, low, high) => this.range(plot, low, high) },
        },
        axes: [
          axis(40, { label: "update", labelSize: 16, labelFont: "11px system-ui, sans-serif", labelGap: 0, values: (plot, splits) => ticks(splits), space: 60 }),
          axis(54, { values: (plot, splits) => ticks(splits), space: 34 }),
        ],
        series: this.series(), bands: this.bands(),
        hooks: {
          drawAxes: [(plot) => this.background(plot)],
          setScale: [(plot, key) => { if (key === "x" && plot.ready) zoom(plot); }],
          setCursor: [(plot) => this.values(plot.cursor.left < 0 ? null : plot.cursor.idx)],
        },
      }, this.columns, this.place);
      this.plot.section = this.section;
      this.plot.ready = true;
      if (x && x.min !== null) this.plot.setScale("x", { min: x.min, max: x.max });
      this.show();
    }
  }

  function table(content) {
    const part = document.createDocumentFragment();
    part.append(make("h3", "", content.title));
    const scroll = make("div", "scroll"), element = make("table");
    const numeric = content.columns.map((_, column) => column > 0 && content.rows.every(
      (row) => /^([-−]?[\d.,]+(e-?\d+)?( %| s)?( \(best .*\))?|–)$/.test(row[column])));
    const head = make("tr");
    content.columns.forEach((title, column) => {
      const cell = make("th", numeric[column] ? "number" : "", title);
      cell.scope = "col";
      head.append(cell);
    });
    const body = make("tbody");
    for (const row of content.rows) {
      const line = make("tr");
      row.forEach((text, column) => {
        const cell = make(column ? "td" : "th", numeric[column] ? "number" : "", text);
        if (!column) cell.scope = "row";
        line.append(cell);
      });
      body.append(line);
    }
    const header = make("thead");
    header.append(head);
    element.append(header, body);
    scroll.append(element);
    scroll.tabIndex = 0; // so that the keyboard can scroll it
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", content.title);
    part.append(scroll);
    if (content.note) part.append(make("p", "note", content.note));
    return part;
  }

  const KINDS = ["substitution", "insertion", "deletion"];

  // A word of the reference above its counterpart in the hypothesis; null: it has none.
  function word(reference, hypothesis) {
    const [substitution, insertion, deletion] = KINDS;
    const kind = reference === hypothesis ? "" : reference === null ? insertion : hypothesis === null ? deletion : substitution;
    const element = make("span", `word ${kind}`);
    element.title = kind;
    element.append(make("span", "reference", reference ?? "·"), make("span", "hypothesis", hypothesis ?? "·"));
    return element;
  }

  function evaluation(content) {
    const part = document.createDocumentFragment();
    part.append(make("h3", "", `Transcripts: ${content.run}, ${content.subset}`));
    part.append(make("p", "note",
      `${content.wrong.toLocaleString("en")} of ${content.utterances.toLocaleString("en")} utterances have errors; ` +
      `word error rate ${content.wer} %, unit error rate ${content.uer} %. Shown are the first and the worst, ` +
      "each reference above its hypothesis."));
    const keys = make("p", "keys");
    for (const kind of KINDS) {
      const key = make("span", `word ${kind}`);
      key.append(make("span", kind === "deletion" ? "reference" : "hypothesis", kind));
      keys.append(key);
    }
    const label = make("label"), box = make("input");
    box.type = "checkbox";
    label.append(box, " only with errors");
    keys.append(label);
    const search = make("input", "search");
    search.type = "search";
    search.placeholder = "search utterances";
    search.setAttribute("aria-label", "Search utterances");
    keys.append(search);
    const pairs = make("div", "pairs");
    box.onchange = () => pairs.classList.toggle("only-wrong", box.checked);
    search.oninput = () => {
      const wanted = search.value.toLowerCase();
      for (const pair of pairs.children) pair.hidden = !pair.dataset.text.includes(wanted);
    };
    for (const [id, words] of content.shown) {
      const correct = words.every(([reference, hypothesis]) => reference === hypothesis);
      const pair = make("div", correct ? "pair correct" : "pair"), line = make("p", "words");
      line.append(...words.map(([reference, hypothesis]) => word(reference, hypothesis)));
      pair.append(make("span", "id", id), line);
      const spoken = [0, 1].map((side) => words.map((pair) => pair[side]).filter(Boolean).join(" "));
      pair.dataset.text = [id, ...spoken].join(" ").toLowerCase();
      pairs.append(pair);
    }
    part.append(keys, pairs);
    return part;
  }

  const runs = document.getElementById("runs");
  const drawn = new Set(data.sections.flatMap((content) =>
    content.diagrams.flatMap((diagram) => diagram.lines.map((line) => line.run))));
  data.runs.forEach((name, number) => {
    if (!drawn.has(number)) return;
    const button = make("button"), swatch = make("span", "swatch");
    button.type = "button";
    swatch.style.borderTopColor = `var(--c${number % 8})`;
    button.append(swatch, name);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      if (!hidden.delete(number)) hidden.add(number);
      button.setAttribute("aria-pressed", String(!hidden.has(number)));
      for (const chart of charts) chart.show();
    };
    runs.append(button);
  });
  document.getElementById("written").textContent = `Written ${data.written}`;
  document.title = `Training report: ${data.runs.join(", ")}`.slice(0, 200);

  const main = document.querySelector("main");
  const block = make("dl", "headline");
  for (const [label, text] of data.headline) block.append(make("dt", "", label), make("dd", "", text));
  main.append(block);
  const contents = make("nav", "contents");
  contents.setAttribute("aria-label", "Contents");
  main.append(contents);
  if (data.notes.length) {
    const notes = make("ul", "notes");
    notes.append(...data.notes.map((text) => make("li", "", text)));
    main.append(notes);
  }
  data.sections.forEach((content, number) => {
    main.append(make("h2", "", content.title));
    const ends = extent(content.diagrams);
    const before = ["What was run", "Results"];
    for (const made of content.tables) if (before.includes(made.title)) main.append(table(made));
    for (const group of ["Learning", "Optimisation", "Speed", "Resources"]) {
      const diagrams = content.diagrams.filter((diagram) => diagram.section === group);
      if (!diagrams.length) continue;
      main.append(make("h3", "", group));
      const grid = make("div", "diagrams");
      main.append(grid);
      for (const diagram of diagrams) {
        const chart = new Chart(diagram, `section ${number}`, ends);
        grid.append(chart.element);
        charts.push(chart);
      }
    }
    for (const made of content.tables) if (!before.includes(made.title)) main.append(table(made));
    main.append(...content.evaluations.map(evaluation));
  });
  main.querySelectorAll("h2, h3").forEach((heading, number) => {
    heading.id = `part-${number}`;
    const link = make("a", heading.tagName.toLowerCase(), heading.textContent);
    link.href = `#${heading.id}`;
    contents.append(link);
  });
  for (const chart of charts) chart.draw();

  const redraw = () => charts.forEach((chart) => chart.plot.redraw(false, true));
  const fit = () => charts.forEach((chart) => {
    const width = chart.place.clientWidth;
    if (width && width !== chart.plot.width) chart.plot.setSize({ width, height: HEIGHT });
  });
  new ResizeObserver(fit).observe(main);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", () => { fit(); redraw(); });
  window.report = { charts, ready: performance.now() };
})();
