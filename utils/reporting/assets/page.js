"use strict";
// Draws the report from the JSON in #data.  Text from logs enters the page only as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const lines = data.sections.flatMap(({ diagrams }) => diagrams.flatMap((diagram) => diagram.lines));
  for (const line of lines) {
    line.x = line.updates = data.spans[line.updates];
    line.hours = data.spans[line.hours] ?? []; // empty: its log has no times
  }
  const longest = Math.max(0, ...lines.map((line) => line.hours.at(-1) ?? 0));
  const [timeUnit, perHour] = longest >= 2 ? ["hours", 1] : longest >= 1 / 30 ? ["minutes", 60] : ["seconds", 3600];
  for (const line of lines) line.hours = line.hours.map((hours) => hours * perHour);
  let axis = "updates"; // or "hours"
  let smoothing = 0; // factor by which weights fall per point in a smoothed curve
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

  // The first and last place on the x axis of some diagrams.
  function extent(diagrams) {
    const drawn = diagrams.flatMap((diagram) => diagram.lines).filter((line) => line.x.length);
    if (!drawn.length) return [0, 1];
    return [Math.min(...drawn.map((line) => line.x[0])), Math.max(...drawn.map((line) => line.x.at(-1)))];
  }

  // Sums of each value and those before it, whose weights fall by `smoothing` per point.
  function sums(values) {
    let sum = 0;
    return values.map((value) => (sum = smoothing * sum + value));
  }

  // Means of each value and those around it, whose weights fall by `smoothing` per point.
  function smooth(values) {
    const around = (each) => {
      const before = sums(each), after = sums([...each].reverse()).reverse();
      return each.map((value, i) => before[i] + after[i] - value);
    };
    const weights = around(values.map(() => 1));
    return around(values).map((sum, i) => sum / weights[i]);
  }

  // Only what is noisy is smoothed: validations are few, and a schedule is exact.
  const exact = new Set(data.sections.flatMap(({ diagrams }) => diagrams.filter(
    (diagram) => ["lr", "loss_scale"].includes(diagram.ending)).flatMap((diagram) => diagram.lines)));
  const smoothed = (line) => smoothing > 0 && line.style === "solid" && !exact.has(line);

  // The lines' points over all their places on the x axis: [places, then of each line: its values
  // where a smoothed curve is drawn over them, the curve, low, high].
  // Includes the places `ends`, so that diagrams with the same ends show the same span.
  function align(lines, ends) {
    const all = new Set(ends);
    for (const line of lines) for (const x of line.x) all.add(x);
    const updates = [...all].sort((a, b) => a - b);
    const index = new Map(updates.map((x, i) => [x, i]));
    const columns = [updates];
    for (const line of lines) {
      const faint = smoothed(line) ? line.y : [], curve = smoothed(line) ? smooth(line.y) : line.y;
      for (const values of line.low ? [faint, curve, line.low, line.high] : [faint, curve]) {
        const column = new Array(updates.length).fill(null);
        line.x.forEach((x, i) => { column[index.get(x)] = values[i] ?? null; });
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
    constructor(diagram, section, shown) {
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
      this.shown = shown; // the diagrams that show the same span
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
      const { band, level } = this.diagram;
      this.marks = make("span", "other", "marks: published, mean ± deviation of 8 seeds");
      if (band) this.legend.append(make("span", "other", `shaded: healthy, ${format(band[0])} of ${format(band[1])} codes or more`));
      if (level) this.legend.append(make("span", "other", `line: ${level[0]}, ${format(level[1])}`));
      this.legend.append(this.marks);
    }

    // What published runs had; they are known by update alone.
    published() {
      return axis === "updates" ? this.diagram.published : [];
    }

    // uPlot's index of each line's curve; its values stand before it, and the low and high of a
    // thinned line follow.
    positions() {
      let next = 2;
      return this.diagram.lines.map((line) => {
        const position = next;
        next += line.low ? 4 : 2;
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
        for (let offset = -1; offset < (line.low ? 3 : 1); offset++) {
          this.plot.setSeries(position + offset, { show: shown }, false);
        }
        this.outputs[number][0].setAttribute("aria-pressed", String(shown));
      });
      this.values(null);
    }

    values(index) {
      const at = index === null || index === undefined ? null : index;
      const place = at === null ? 0 : this.columns[0][at];
      this.where.textContent = at === null ? "last"
        : axis === "updates" ? `at ${place.toLocaleString("en")}` : `at ${format(place)} ${timeUnit}`;
      this.positions().forEach((position, number) => {
        const line = this.diagram.lines[number];
        const curve = this.columns[position];
        const shown = nearest(curve, at === null ? curve.length - 1 : at);
        const value = !smoothed(line) ? shown : at === null ? line.y.at(-1) : nearest(this.columns[position - 1], at);
        let text = format(value);
        if (smoothed(line)) text += `, smoothed ${format(shown)}`;
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
        const faint = () => `color-mix(in srgb, ${color(line.run)} 35%, transparent)`;
        found.push({
          label: "", stroke: faint, width: 1, dash, spanGaps: true, points: { show: few, size: 4, fill: faint },
        }, {
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
      const { ctx, bbox } = plot, { band, level } = this.diagram;
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
      for (const [update, mean, deviation] of this.published()) {
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
      const { level, unit } = this.diagram;
      if (level) { min = Math.min(min, level[1]); max = Math.max(max, level[1]); }
      for (const [, mean, deviation] of this.published()) {
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

    // Draw it again, in the span that is zoomed to, or `entire`.
    draw(entire = false) {
      const x = this.plot && !entire && { ...this.plot.scales.x };
      if (this.plot) this.plot.destroy();
      this.columns = align(this.diagram.lines, extent(this.shown));
      this.marks.hidden = !this.published().length;
      const side = (size, more) => ({
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
          side(26, { label: axis === "updates" ? "update" : `training time, ${timeUnit}`, labelSize: 16, labelFont: "11px system-ui, sans-serif", labelGap: 0, values: (plot, splits) => ticks(splits), space: 60 }),
          side(54, { values: (plot, splits) => ticks(splits), space: 34 }),
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
      `WER ${content.wer} %, ${content.unit_rate} ${content.uer} %. Shown are the first and the worst, ` +
      "each reference above its hypothesis, those with the most errors first."));
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
    const more = make("button", "more", `show all ${content.shown.length}`);
    more.type = "button";
    more.setAttribute("aria-expanded", "false");
    const unfold = () => { pairs.classList.remove("folded"); more.hidden = true; };
    more.onclick = () => {
      unfold();
      pairs.children[FOLDED].focus();
    };
    if (content.shown.length > FOLDED + 3) pairs.classList.add("folded"); else more.hidden = true;
    box.onchange = () => pairs.classList.toggle("only-wrong", box.checked);
    search.oninput = () => {
      const wanted = search.value.toLowerCase();
      unfold();
      for (const pair of pairs.children) pair.hidden = !pair.dataset.text.includes(wanted);
    };
    const errors = (words) => words.filter(([reference, hypothesis]) => reference !== hypothesis).length;
    for (const [id, words] of [...content.shown].sort((a, b) => errors(b[1]) - errors(a[1]))) {
      const pair = make("div", errors(words) ? "pair" : "pair correct"), line = make("p", "words");
      pair.tabIndex = -1;
      line.append(...words.map(([reference, hypothesis]) => word(reference, hypothesis)));
      const title = make("p", "id");
      title.append(make("span", "", id));
      if (content.clips[id]) title.append(sound(id, content.clips[id], pair));
      pair.append(title, line);
      const spoken = [0, 1].map((side) => words.map((pair) => pair[side]).filter(Boolean).join(" "));
      pair.dataset.text = [id, ...spoken].join(" ").toLowerCase();
      pairs.append(pair);
    }
    part.append(keys, pairs, more);
    return part;
  }

  const FOLDED = 12; // utterances shown before "show all"

  // A button that becomes the browser's player, or a link to a file beside the page.
  function sound(id, source, pair) {
    if (!source.startsWith("data:")) {
      const link = make("a", "sound", "audio file");
      link.href = source;
      return link;
    }
    const button = make("button", "sound", "▶ play");
    button.type = "button";
    button.setAttribute("aria-label", `Play ${id}`);
    button.onclick = () => {
      const player = make("audio");
      player.controls = true;
      player.src = source;
      player.setAttribute("aria-label", id);
      player.onplay = () => {
        for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
      };
      button.remove();
      pair.append(player);
      player.focus();
      player.play().catch(() => {}); // a browser may want another click
    };
    return button;
  }

  const runs = document.getElementById("runs");
  const drawn = new Set(lines.map((line) => line.run));
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
  document.getElementById("controls").hidden = !lines.length;
  const slider = document.getElementById("smoothing"), choice = document.getElementById("axis");
  slider.value = 0; // a browser may remember another one
  choice.value = axis;
  choice.parentElement.hidden = !longest;
  let waiting = 0; // frame in which the charts are drawn again
  slider.oninput = () => {
    smoothing = Number(slider.value);
    document.querySelector("output[for=smoothing]").textContent = smoothing;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => charts.forEach((chart) => chart.draw()));
  };
  choice.onchange = () => {
    axis = choice.value;
    for (const line of lines) line.x = line[axis];
    for (const chart of charts) chart.draw(true);
  };
  document.getElementById("written").textContent = `Written ${data.written}`;
  document.title = `Training report: ${data.runs.join(", ")}`.slice(0, 200);

  const main = document.querySelector("main");
  const block = make("dl", "headline");
  for (const [label, text] of data.headline) block.append(make("dt", "", label), make("dd", "", text.replaceAll(" %", "\u00a0%")));
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
    const before = ["What was run", "Results"], beside = make("div", "beside");
    for (const made of content.tables) {
      if (!before.includes(made.title)) continue;
      const part = make("div");
      part.append(table(made));
      beside.append(part);
    }
    main.append(beside);
    for (const group of ["Learning", "Optimisation", "Speed and memory"]) {
      const diagrams = content.diagrams.filter((diagram) => diagram.section === group);
      if (!diagrams.length) continue;
      main.append(make("h3", "", group));
      const grid = make("div", "diagrams");
      main.append(grid);
      for (const diagram of diagrams) {
        const chart = new Chart(diagram, `section ${number}`, content.diagrams);
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
    if (heading.tagName === "H2" || !contents.lastChild) contents.append(make("p"));
    contents.lastChild.append(link);
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
