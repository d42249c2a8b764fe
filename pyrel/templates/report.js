// SPDX-License-Identifier: Apache-2.0
// Shows what the reader picks; without it the page shows its first sample.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("pick");
  const table = document.getElementById("maps");
  const say = document.getElementById("said");
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const samples = all("input[name=sample]", form);
  const pickedClass = form.elements.class;
  const pickedMethod = form.elements.method;
  const pickedModel = form.elements.model;
  const steps = all(".step");

  const sampleNumber = () => samples.findIndex((radio) => radio.checked);

  function fillClasses(sample) {
    sample.classes.forEach((text, i) => { pickedClass.options[i].text = text; });
    pickedClass.value = String(sample.true);
  }

  function showPicture(cell, picture, bars) {
    const image = cell.querySelector("img");
    image.src = data.prefix + picture.png;
    image.alt = picture.alt;
    all(".bars i", cell).forEach((bar, t) => { bar.style.height = bars[t] + "%"; });
  }

  function show() {
    const sample = data.samples[sampleNumber()];
    const c = Number(pickedClass.value);
    const method = pickedMethod.value;
    const model = pickedModel.value;
    all("[data-model]", table).forEach((cell) => {
      cell.hidden = model !== "all" && cell.dataset.model !== model;
    });
    all("tr[data-method]", table).forEach((row) => {
      row.hidden = method !== "all" && row.dataset.method !== method;
    });
    table.dataset.columns = model === "all" ? data.models.length : 1;
    table.style.setProperty("--columns", table.dataset.columns);
    all("[data-input]", table).forEach((cell) => {
      showPicture(cell, sample, sample.marked.map((on) => (on ? 100 : 0)));
    });
    all("[data-map]", table).forEach((cell) => {
      const view = sample.maps[c][Number(cell.dataset.model)][Number(cell.dataset.map)];
      if (view === null) return;
      showPicture(cell, view, view.bars);
      cell.querySelector(".note").textContent = view.note;
    });
    all(".bars", table).forEach((strip) => {
      Array.from(strip.children).forEach((bar, t) => {
        bar.classList.toggle("marked", sample.marked[t]);
      });
    });
    all("[data-verdict]", table).forEach((head) => {
      const i = Number(head.dataset.model);
      head.querySelector(".says").textContent = sample.verdicts[i];
      head.querySelector(".score").textContent = sample.scores[c][i];
    });
    all("[data-method-text]").forEach((text) => {
      text.hidden = text.dataset.methodText !== method;
    });
    say.textContent = sample.name + ", class " + sample.classes[c] + ", "
      + pickedMethod.selectedOptions[0].text + ", " + pickedModel.selectedOptions[0].text + ".";
  }

  function showSample() {
    fillClasses(data.samples[sampleNumber()]);
    show();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  samples.forEach((radio) => radio.addEventListener("change", showSample));
  [pickedClass, pickedMethod, pickedModel].forEach((pick) => pick.addEventListener("change", show));
  steps.forEach((button) => button.addEventListener("click", () => {
    const next = sampleNumber() + Number(button.value) + samples.length;
    samples[next % samples.length].checked = true;
    showSample();
  }));
  form.hidden = false;
  samples[0].checked = true;
  pickedMethod.value = "all";
  pickedModel.value = "all";
  showSample();
})();
