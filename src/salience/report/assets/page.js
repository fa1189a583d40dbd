// Sorting, colours of the theme, and the start of everything.
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value || NaN);
      };
      const order = (a, b) => {
        const [p, q] = [value(a), value(b)];
        if (typeof p === "string") return (down ? -1 : 1) * p.localeCompare(q);
        if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q); // last
        return (down ? -1 : 1) * (p - q);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

function colourAxes(plots, ink) {
  for (const plot of plots) {
    for (const axis of [...plot.below, ...plot.left]) {
      if (!("major_label_text_color" in axis)) continue;
      axis.setv({ major_label_text_color: ink, axis_label_text_color: ink, axis_line_color: ink, major_tick_line_color: ink });
      for (const label of axis.major_label_overrides.values()) label.color = ink;
    }
  }
}

// Paper is light; what is printed must be painted, and as wide as its canvas, before the print.
function followTheme(plots, views) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const recolour = (isDark) => colourAxes(plots, isDark ? "#e6e9ee" : "#1b1f24");
  const boxes = document.querySelectorAll(".picture, .plot");
  dark.addEventListener("change", () => recolour(dark.matches));
  addEventListener("beforeprint", () => {
    const widths = [...boxes].map((box) => box.clientWidth);
    boxes.forEach((box, i) => { box.style.width = `${widths[i]}px`; });
    recolour(false);
    for (const view of views) {
      view.invalidate_painters();
      view.paint();
    }
  });
  addEventListener("afterprint", () => {
    boxes.forEach((box) => { box.style.width = ""; });
    recolour(dark.matches);
  });
  recolour(dark.matches);
}

async function start() {
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  const item = JSON.parse(document.getElementById("bokeh").textContent);
  const names = Object.keys(item.roots);
  if (names.length) {
    const roots = Object.fromEntries(names.map((name) => [item.roots[name], name]));
    const [views] = await Bokeh.embed.embed_items(item.documents, [
      { docid: item.document, roots, root_ids: Object.keys(roots) },
    ]);
    const bokeh = Bokeh.documents[Bokeh.documents.length - 1];
    const find = (name) => bokeh.get_model_by_name(name);
    const plots = names.filter((name) => !name.startsWith("panel-")).map(find);
    followTheme(plots, [...views]);
    if (document.getElementById("curves")) startCurves(find);
    if (held) await startViewer(find);
  }
  document.body.dataset.ready = "yes";
}
start();
