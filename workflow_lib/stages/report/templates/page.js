"use strict";
(() => {
  let parsed;
  const content = () => parsed ??= JSON.parse(document.getElementById("data").textContent);
  const touch = matchMedia("(pointer: coarse)").matches;
  const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true };
  const el = (name, text) => Object.assign(document.createElement(name), text === undefined ? {} : { textContent: text });
  const plain = (html) => new DOMParser().parseFromString(html.replaceAll("<br>", "; "), "text/html").body.textContent;

  function save(name, type, text) {
    const link = el("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";

  // The first screen needs no plotly.js, which takes a browser about a second to read: the first chart below does.
  function startPlotly() {
    const text = document.getElementById("plotly"), script = el("script");
    script.textContent = text.textContent;
    text.replaceWith(script);
  }
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

  // Charts ------------------------------------------------------------------------------------------
  const BASE = {
    font: { family: "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", size: 13, color: "#1b1b1b" },
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest", dragmode: touch ? false : "zoom",
    margin: { l: 62, r: 14, t: 14, b: 48 },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 12 } },
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#555", font: { color: "#1b1b1b", size: 13 } },
  };
  const AXIS = { title: { font: { size: 13 }, standoff: 8 }, gridcolor: "#e4e4e4", zerolinecolor: "#bbb", linecolor: "#777", showline: true, ticks: "outside", automargin: true };

  function layoutOf(view) {
    const own = view.layout;
    const axis = (mine) => ({ ...AXIS, ...mine, title: { ...AXIS.title, ...mine.title } });
    return { ...BASE, ...own, xaxis: axis(own.xaxis), yaxis: axis(own.yaxis) };
  }
  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.name = figure.dataset.chart;
      this.plot = figure.querySelector(".plot");
      this.select = figure.querySelector("select");
      this.values = figure.querySelector(".values");
      this.drawn = false;
      this.select?.addEventListener("change", () => { this.draw(); this.fill(); });
      figure.querySelector("[data-values]").addEventListener("click", () => {
        this.values.hidden = !this.values.hidden;
        this.fill();
      });
      figure.querySelector("[data-values]").setAttribute("aria-expanded", "false");
      for (const button of figure.querySelectorAll("[data-save]"))
        button.addEventListener("click", () => this.save(button.dataset.save));
    }
    get views() { return content().charts[this.name]; }
    get label() { return Object.keys(this.views)[this.select ? this.select.selectedIndex : 0]; }
    get view() { return this.views[this.label]; }
    async draw() {
      const first = !this.drawn;
      this.drawn = true;
      if (!window.Plotly) startPlotly();
      await Plotly.react(this.plot, structuredClone(this.view.data), layoutOf(structuredClone(this.view)), CONFIG);
      if (first) this.plot.on("plotly_click", (event) => {
        const target = event.points[0].customdata;
        if (target) openStructure(...target);
      });
    }
    rows() {
      const { data, layout } = this.view;
      const shown = data.filter((trace) => trace.hoverinfo !== "skip" || trace.mode === "lines" && trace.name);
      const rows = [];
      for (const trace of shown) trace.x.forEach((x, k) => rows.push({
        cells: [plain(trace.name), x, trace.y[k], trace.text ? plain(trace.text[k]) : ""],
        target: trace.customdata?.[k],
      }));
      return { head: ["series", layout.xaxis.title.text, layout.yaxis.title.text || "model", "what"].map(plain), rows };
    }
    fill() {
      this.figure.querySelector("[data-values]").setAttribute("aria-expanded", String(!this.values.hidden));
      if (this.values.hidden) return;
      const { head, rows } = this.rows(), most = 400;
      const table = el("table"), body = el("tbody"), line = el("tr");
      for (const name of head) { const cell = el("th", name); cell.scope = "col"; line.append(cell); }
      const top = el("thead"); top.append(line); table.append(top, body);
      for (const { cells, target } of rows.slice(0, most)) {
        const row = el("tr");
        cells.forEach((value) => row.append(el("td", value ?? "")));
        if (target) {
          const button = el("button", "Show structure");
          button.type = "button";
          button.addEventListener("click", () => openStructure(...target));
          const cell = el("td"); cell.append(button); row.append(cell);
        }
        body.append(row);
      }
      const box = el("div");
      box.className = "scroll"; box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `Values of ${this.figure.querySelector("h3, h4").textContent}`);
      box.append(table);
      this.values.replaceChildren(box);
      if (rows.length > most) this.values.append(el("p", `The first ${most} of ${rows.length}; the CSV has all that are drawn.`));
    }
    save(kind) {
      const name = `${this.name}${this.label ? `-${this.label}` : ""}`.replace(/[^\w.-]+/g, "_");
      if (kind === "png") {
        if (!this.drawn) return this.draw().then(() => this.save(kind));
        return Plotly.downloadImage(this.plot, { format: "png", filename: name, scale: 2 });
      }
      const { head, rows } = this.rows();
      save(`${name}.csv`, "text/csv", csv([head, ...rows.map((row) => row.cells)]));
    }
  }
  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => new Chart(figure));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      near.unobserve(entry.target);
      const chart = charts.find((item) => item.figure === entry.target);
      if (!chart.drawn) painted().then(() => { if (!chart.drawn) chart.draw(); });
    }
  }, { rootMargin: "300px" });
  charts.forEach((chart) => near.observe(chart.figure));
  addEventListener("beforeprint", () => charts.forEach((chart) => { if (!chart.drawn) chart.draw(); }));

  // Errors without and with the label --------------------------------------------------------------
  async function savePicture(name, svg) {
    const { width, height } = svg.getBoundingClientRect(), copy = svg.cloneNode(true), canvas = el("canvas");
    copy.setAttribute("width", width);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
    await image.decode();
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(`${name}.png`, "image/png", blob));
  }
  for (const figure of document.querySelectorAll("figure.label")) {
    const name = `label-${figure.dataset.label}`, rows = [...figure.querySelectorAll("tr")];
    figure.querySelector('[data-save="csv"]').addEventListener("click", () =>
      save(`${name}.csv`, "text/csv", csv(rows.map((row) => [...row.cells].map((cell) => cell.dataset.v ?? cell.textContent)))));
    figure.querySelector('[data-save="png"]').addEventListener("click", () => savePicture(name, figure.querySelector(".errors")));
  }

  // Tables ------------------------------------------------------------------------------------------
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => row.cells[column].dataset.v;
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows], sign = down ? -1 : 1;
      rows.sort((a, b) => {
        const [first, second] = [value(a, column), value(b, column)];
        if (first === "" || second === "") return (first === "") - (second === "");  // empty ones last
        const [one, two] = [Number(first), Number(second)];
        return sign * (Number.isNaN(one) || Number.isNaN(two) ? first.localeCompare(second) : one - two);
      });
      body.append(...rows);
    }));
    document.querySelector(`[data-filter="${table.id}"]`).addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      document.getElementById(`${table.id}-count`).textContent = `${shown} of ${body.rows.length} rows`;
    });
    document.querySelector(`[data-csv="${table.id}"]`).addEventListener("click", () => {
      const rows = [...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => cell.dataset.v));
      save(`${table.id}.csv`, "text/csv", csv([heads.map((head) => head.textContent), ...rows]));
    });
  }

  // Structures --------------------------------------------------------------------------------------
  const dialog = document.getElementById("structure"), scene = document.getElementById("structure-plot");
  const picker = document.getElementById("structure-source");
  const EYE = { x: 1.1, y: 1.5, z: 0.75 };
  let shown = null;

  function images(structure) {
    const { z, p, c } = structure, atoms = z.map((number, k) => ({ number, k, at: [p[3 * k], p[3 * k + 1], p[3 * k + 2]] }));
    const vectors = [c.slice(0, 3), c.slice(3, 6), c.slice(6, 9)], all = [];
    for (let i = -1; i < 2; i++) for (let j = -1; j < 2; j++) for (let l = -1; l < 2; l++) {
      const shift = [0, 1, 2].map((d) => i * vectors[0][d] + j * vectors[1][d] + l * vectors[2][d]);
      for (const atom of atoms) all.push({ ...atom, at: atom.at.map((value, d) => value + shift[d]) });
    }
    return { atoms, all, vectors };
  }
  const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
  const radius = (number) => content().elements[number].radius;
  const isAnion = (number) => content().elements[number].anion;

  function ligands(atom, all) {
    return all.filter((other) => isAnion(other.number) && distance(atom.at, other.at) < 1.25 * (radius(atom.number) + radius(other.number)));
  }
  function species(structure, k) {
    const own = content().elements[structure.z[k]], state = structure.o?.[k];
    const charged = own.states?.[state];
    return charged ? { name: charged.name, colour: charged.colour, size: own.size } : { name: own.symbol, colour: own.colour, size: own.size };
  }
  const xyz = (points) => ({ x: points.map((p) => p[0]), y: points.map((p) => p[1]), z: points.map((p) => p[2]) });

  function traces(structure, marked) {
    const { atoms, all, vectors } = images(structure), groups = new Map(), found = [];
    const drawn = new Map(atoms.map((atom) => [atom.at.map((v) => v.toFixed(2)).join(), atom]));
    for (const atom of atoms) {
      if (isAnion(atom.number) || content().elements[atom.number].mobile) continue;
      const corners = ligands(atom, all);
      corners.forEach((corner) => drawn.set(corner.at.map((v) => v.toFixed(2)).join(), corner));
      if (corners.length >= 4) found.push({
        type: "mesh3d", alphahull: 0, color: species(structure, atom.k).colour, opacity: content().elements[atom.number].states ? 0.55 : 0.35,
        flatshading: true, hoverinfo: "skip", showlegend: false, ...xyz(corners.map((corner) => corner.at)),
      });
    }
    for (const atom of drawn.values()) {
      const own = species(structure, atom.k);
      if (!groups.has(own.name)) groups.set(own.name, { own, members: [] });
      groups.get(own.name).members.push(atom);
    }
    for (const { own, members } of groups.values()) found.push({
      type: "scatter3d", mode: "markers", name: own.name, ...xyz(members.map((atom) => atom.at)),
      marker: { color: own.colour, size: own.size, line: { color: "#333", width: 1 } },
      text: members.map((atom) => `${own.name}, atom ${atom.k}`), hovertemplate: "%{text}<extra></extra>", showlegend: false,
    });
    if (marked !== undefined) found.push({
      type: "scatter3d", mode: "markers", ...xyz([atoms[marked].at]), hoverinfo: "skip", showlegend: false, name: "marked",
      marker: { color: "#000", size: 2.2 * species(structure, marked).size, symbol: "circle-open", line: { width: 4 } },
    });
    const edges = [];
    for (let d = 0; d < 3; d++) for (let m = 0; m < 4; m++) {
      const [a, b] = [0, 1, 2].filter((e) => e !== d), start = [0, 1, 2].map((e) => (m & 1) * vectors[a][e] + (m >> 1) * vectors[b][e]);
      edges.push(start, start.map((value, e) => value + vectors[d][e]), [null, null, null]);
    }
    found.push({ type: "scatter3d", mode: "lines", ...xyz(edges), line: { color: "#666", width: 2 }, hoverinfo: "skip", showlegend: false, name: "cell" });
    return { found, groups, atoms, all };
  }
  function drawStructure() {
    if (!window.Plotly) startPlotly();
    const { key, atom } = shown, source = picker.value, structure = content().structures[key][source];
    shown.source = source;
    const { found, groups, atoms, all } = traces(structure, atom);
    const axis = { visible: false, showspikes: false };
    const camera = scene._fullLayout?.scene?.camera ? scene.layout.scene.camera : { eye: EYE };
    Plotly.react(scene, found, {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "#fff", font: BASE.font,
      scene: { aspectmode: "data", xaxis: axis, yaxis: axis, zaxis: axis, camera, dragmode: "orbit" },
    }, CONFIG);
    const legend = document.getElementById("structure-legend");
    legend.replaceChildren();
    for (const { own } of groups.values()) {
      const dot = el("i");
      dot.style.background = own.colour;
      legend.append(dot, own.name);
    }
    const facts = document.getElementById("structure-facts");
    facts.replaceChildren(...(structure.f ?? []).map(([name, value]) => {
      const box = el("div");
      box.append(el("dt", name), el("dd", value));
      return box;
    }));
    const table = document.querySelector("#structure-atoms table"), head = el("tr");
    ["atom", "species", "x (Å)", "y (Å)", "z (Å)"].forEach((name) => { const cell = el("th", name); cell.scope = "col"; head.append(cell); });
    const top = el("thead"), body = el("tbody");
    top.append(head);
    atoms.forEach((item) => {
      const row = el("tr");
      [item.k, species(structure, item.k).name, ...item.at].forEach((value) => row.append(el("td", value)));
      body.append(row);
    });
    table.replaceChildren(top, body);
    const around = document.getElementById("structure-near");
    around.textContent = "";
    if (atom !== undefined) {
      const lengths = ligands(atoms[atom], all).map((other) => distance(other.at, atoms[atom].at)).sort((a, b) => a - b);
      const mean = lengths.reduce((a, b) => a + b, 0) / lengths.length;
      around.textContent = `Atom ${atom} is ${species(structure, atom).name}, marked by a ring. Bonds: ${lengths.map((d) => d.toFixed(2)).join(", ")} Å, mean ${mean.toFixed(3)} Å.`;
    }
  }
  function openStructure(key, source, atom) {
    const known = content().structures[key];
    if (!known) return;
    shown = { key, atom };
    document.getElementById("structure-title").textContent = key.replace(/^\w/, (letter) => letter.toUpperCase());
    picker.replaceChildren(...Object.keys(known).map((name) => { const option = el("option", name === "dft" ? "DFT" : name); option.value = name; return option; }));
    picker.value = source;
    dialog.showModal();
    drawStructure();
  }
  picker.addEventListener("change", drawStructure);
  document.getElementById("structure-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("structure-save").addEventListener("click", () => {
    const structure = content().structures[shown.key][shown.source], { atoms } = images(structure);
    const lines = atoms.map((atom) => [content().elements[atom.number].symbol, ...atom.at, structure.o?.[atom.k] ?? 0].join(" "));
    const head = `Lattice="${structure.c.join(" ")}" Properties=species:S:1:pos:R:3:oxidation_states:I:1 pbc="T T T"`;
    save(`${shown.key}-${shown.source}.xyz`.replace(/[^\w.-]+/g, "_"), "text/plain", `${atoms.length}\n${head}\n${lines.join("\n")}\n`);
  });
  const cameraNow = () => scene._fullLayout.scene._scene.getCamera();
  function look(change) {
    const camera = cameraNow();
    Plotly.relayout(scene, { "scene.camera": { ...camera, eye: change(camera.eye) } });
  }
  for (const button of dialog.querySelectorAll("[data-turn]")) button.addEventListener("click", () => {
    const [side, up] = button.dataset.turn.split(" ").map(Number);
    look(({ x, y, z }) => {
      const far = Math.hypot(x, y, z), angle = Math.atan2(y, x) + side * 0.3;
      const height = Math.max(-1.4, Math.min(1.4, Math.asin(z / far) + up * 0.25));
      return { x: far * Math.cos(height) * Math.cos(angle), y: far * Math.cos(height) * Math.sin(angle), z: far * Math.sin(height) };
    });
  });
  for (const button of dialog.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => {
    const factor = Number(button.dataset.zoom);
    look(({ x, y, z }) => ({ x: x * factor, y: y * factor, z: z * factor }));
  });
})();
