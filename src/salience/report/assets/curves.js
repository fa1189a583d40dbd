// Similarity per stage: the numbers of the chosen score go to Bokeh's lines and to the table.
function startCurves(find) {
  const test = study.test, picker = document.getElementById("score-picker");
  const number = (value) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(2));

  function show() {
    const { mean, low, high } = test.similarity[picker.value];
    const floors = test.floors[picker.value], end = test.stages.length;
    test.methods.forEach((_, m) => {
      const start = test.roles[m] === "floor control" ? NaN : 1;
      const line = (values) => [start, ...values.map((v) => v ?? NaN)];
      const told = line(mean[m]).map((_, i) => number(i ? mean[m][i - 1] : start));
      find(`curve-${m}`).data = {
        x: line(mean[m]).map((_, i) => i), mean: line(mean[m]), low: line(low[m]), high: line(high[m]),
        method: told.map(() => test.methods[m]), stage: ["trained", ...test.stages], similarity: told,
        "95% interval": told.map((_, i) => (i ? `${number(low[m][i - 1])} to ${number(high[m][i - 1])}` : "–")),
      };
      const floor = floors[m];
      find(`curve-${m}-floors`).data = floor
        ? { x: [end, end + 1], mean: [mean[m][end - 1] ?? NaN, floor[0]], size: [0, 16] }
        : { x: [], mean: [], size: [] };
    });
    const least = Math.min(...mean.flat().filter((v) => v !== null));
    find("curve-range").setv({ start: least < -0.05 ? -1.03 : -0.03, end: 1.03 });
    document.querySelectorAll("#similarity-table tbody tr").forEach((row, s) => {
      row.querySelectorAll("td").forEach((cell, m) => {
        const small = document.createElement("small");
        small.textContent = `[${number(low[m][s])}, ${number(high[m][s])}]`;
        cell.replaceChildren(`${number(mean[m][s])} `, small);
      });
    });
  }

  for (const button of document.querySelectorAll("#curve-legend button")) {
    button.addEventListener("click", () => {
      const m = Number(button.dataset.curve), on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const part of ["line", "dots", "target", "band", "drop", "floor"]) {
        find(`curve-${m}-${part}`).visible = on && (part !== "band" || test.roles[m] === "method");
      }
    });
  }
  picker.addEventListener("change", show);
  show();
}
