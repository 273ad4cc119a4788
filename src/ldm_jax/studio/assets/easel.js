// The easel: pictures of a run, and layers that are painted over them. One a page, no libraries.
(() => {
  const COLOURS = {
    1: "#e4572e", 2: "#2e86ab", 3: "#76b041", 4: "#a23bc4",
    5: "#f0a202", 6: "#14b8a6", 7: "#8b5e34", 8: "#e84393", mask: "#ffffff",
  };
  const state = {
    images: [], size: [32, 32], selected: 0, layers: {}, active: null, erase: false, brush: 4,
    undo: [],
  };
  let view = null;

  function layer(name) {
    const [height, width] = state.size;
    let canvas = state.layers[name];
    if (!canvas || canvas.width !== width || canvas.height !== height) {
      canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      canvas.getContext("2d", { willReadFrequently: true });
      state.layers[name] = canvas;
    }
    return canvas;
  }

  function isEmpty(canvas) {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let k = 3; k < pixels.length; k += 4) if (pixels[k]) return false;
    return true;
  }

  // White where it is painted, on black, as a PNG; null for a layer without paint.
  function exported(canvas) {
    if (isEmpty(canvas)) return null;
    const whole = tinted(canvas, "#fff");
    const context = whole.getContext("2d");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, whole.width, whole.height);
    return whole.toDataURL("image/png");
  }

  function paint() {
    const layers = {};
    for (const [name, canvas] of Object.entries(state.layers)) {
      if (canvas.width === state.size[1] && canvas.height === state.size[0]) {
        layers[name] = exported(canvas);
      }
    }
    return JSON.stringify({ selected: state.selected, layers });
  }

  function tinted(canvas, colour) {
    const copy = document.createElement("canvas");
    copy.width = canvas.width;
    copy.height = canvas.height;
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour;
    context.fillRect(0, 0, copy.width, copy.height);
    return copy;
  }

  function draw() {
    if (!view || !view.isConnected) return;
    const [height, width] = state.size;
    const scale = Math.max(1, Math.floor(768 / Math.max(width, height)));
    if (view.width !== width * scale || view.height !== height * scale) {
      view.width = width * scale;
      view.height = height * scale;
    }
    const context = view.getContext("2d");
    context.imageSmoothingEnabled = Math.max(width, height) >= 128;
    context.globalAlpha = 1;
    context.clearRect(0, 0, view.width, view.height);
    const image = state.images[state.selected];
    if (image && image.complete) context.drawImage(image, 0, 0, view.width, view.height);
    for (const [name, canvas] of Object.entries(state.layers)) {
      if (canvas.width !== width || canvas.height !== height) continue;
      context.globalAlpha = name === state.active ? 0.55 : 0.3;
      context.drawImage(tinted(canvas, COLOURS[name]), 0, 0, view.width, view.height);
    }
    context.globalAlpha = 1;
  }

  function thumbnails() {
    const row = document.querySelector("#easel .thumbs");
    if (!row) return;
    row.replaceChildren(...(state.images.length > 1 ? state.images : []).map((image, number) => {
      const button = document.createElement("button");
      button.className = number === state.selected ? "on" : "";
      button.setAttribute("aria-label", `image ${number + 1}`);
      const small = document.createElement("img");
      small.src = image.src;
      small.alt = "";
      button.append(small);
      button.onclick = () => { state.selected = number; thumbnails(); draw(); };
      return button;
    }));
  }

  // Layers follow the size of the picture.
  function resize(size) {
    if (size[0] === state.size[0] && size[1] === state.size[1]) return;
    state.size = size;
    state.undo = [];
    for (const [name, before] of Object.entries(state.layers)) {
      delete state.layers[name];
      const canvas = layer(name);
      canvas.getContext("2d").drawImage(before, 0, 0, canvas.width, canvas.height);
    }
  }

  // What the server says: {images, size, layers}, each optional.
  function show(text) {
    if (!text) return;
    const told = JSON.parse(text);
    if (told.size) resize(told.size);
    if (told.layers) {
      state.layers = {};
      for (const [name, source] of Object.entries(told.layers)) load(name, source);
    }
    if (told.images) {
      state.images = told.images.map((source) => {
        const image = new Image();
        image.onload = draw;
        image.src = source;
        return image;
      });
      state.selected = Math.min(state.selected, state.images.length - 1);
      thumbnails();
      const easel = document.querySelector("#easel");
      easel.dataset.shown = String(Number(easel.dataset.shown || 0) + 1);
    }
    draw();
  }

  // A white-on-black PNG as a layer.
  function load(name, source) {
    const image = new Image();
    image.onload = () => {
      const canvas = layer(name);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      const found = context.getImageData(0, 0, canvas.width, canvas.height);
      for (let k = 0; k < found.data.length; k += 4) found.data[k + 3] = found.data[k];
      context.putImageData(found, 0, 0);
      draw();
    };
    image.src = source;
  }

  function at(event) {
    const box = view.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * state.size[1],
      ((event.clientY - box.top) / box.height) * state.size[0],
    ];
  }

  function stroke(from, to) {
    const context = layer(state.active).getContext("2d");
    context.globalCompositeOperation = state.erase ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineWidth = (state.brush / 100) * Math.max(...state.size);
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]);
    context.stroke();
    draw();
  }

  function remember() {
    const canvas = layer(state.active);
    const kept = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    state.undo = [...state.undo.slice(-19), [state.active, kept]];
  }

  function undo() {
    const last = state.undo.pop();
    if (!last) return;
    const canvas = layer(last[0]);
    if (canvas.width === last[1].width && canvas.height === last[1].height) {
      canvas.getContext("2d").putImageData(last[1], 0, 0);
    }
    draw();
  }

  function choose(name) {
    state.active = state.active === name ? null : name;
    for (const button of document.querySelectorAll("#easel [data-layer]")) {
      const on = button.dataset.layer === state.active;
      button.classList.toggle("on", on);
      button.setAttribute("aria-pressed", String(on));
    }
    view.style.touchAction = state.active ? "none" : "auto";
    view.classList.toggle("paints", Boolean(state.active));
    draw();
  }

  function start(element) {
    view = element.querySelector("canvas");
    let last = null;
    view.addEventListener("pointerdown", (event) => {
      if (!state.active) return;
      event.preventDefault();
      view.setPointerCapture(event.pointerId);
      remember();
      last = at(event);
      stroke(last, last);
    });
    view.addEventListener("pointermove", (event) => {
      if (!last) return;
      const next = at(event);
      stroke(last, next);
      last = next;
    });
    for (const name of ["pointerup", "pointercancel"]) {
      view.addEventListener(name, () => { last = null; });
    }
    for (const button of element.querySelectorAll("[data-layer]")) {
      button.style.setProperty("--own", COLOURS[button.dataset.layer]);
      button.onclick = () => choose(button.dataset.layer);
    }
    const eraser = element.querySelector("[data-erase]");
    eraser.onclick = () => {
      state.erase = !state.erase;
      eraser.classList.toggle("on", state.erase);
      eraser.setAttribute("aria-pressed", String(state.erase));
    };
    element.querySelector("[data-undo]").onclick = undo;
    element.querySelector("[data-clear]").onclick = () => {
      if (!state.active) { state.layers = {}; } else { remember(); delete state.layers[state.active]; }
      draw();
    };
    const brush = element.querySelector("[data-brush]");
    const choose_brush = () => { state.brush = Number(brush.value); };
    brush.oninput = choose_brush;
    choose_brush();
    const edge = Number(view.dataset.edge);
    resize([edge, edge]);
    draw();
  }

  window.ldmEasel = {
    start, show, paint,
    // The values of an event, with what is painted in the last place.
    fill: (values) => [...values.slice(0, -1), paint()],
  };
})();
