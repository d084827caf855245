// The demo page: a photo goes to /invocations, the answer becomes bars and a heat map. No library, no other address.
"use strict";

const find = (id) => document.getElementById(id);
const SENT_AS_IT_IS = ["image/jpeg", "image/png", "image/webp"];
const MOST_BYTES = 4e6; // the server takes 6 MiB, and others on the way may take less
const CONVERTED_PX = 2000; // the longer side of a photo that is converted here
const HEAT = [[38, 70, 160, 60], [47, 165, 160, 150], [243, 208, 47, 215], [226, 69, 31, 255]]; // little to much
let fileName = "photo.jpg", fileType = "image/jpeg", heat = null, latest = 0;

find("pick").addEventListener("click", () => find("file").click());
find("shoot").addEventListener("click", () => find("camera").click());
for (const id of ["file", "camera"]) {
  find(id).addEventListener("change", (event) => {
    if (event.target.files[0]) classify(event.target.files[0]);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}

// a drop anywhere counts: next to the field the browser would leave the page and show the file
let inside = 0;
document.addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; find("drop").classList.add("over"); });
document.addEventListener("dragleave", () => { inside -= 1; if (inside <= 0) find("drop").classList.remove("over"); });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  find("drop").classList.remove("over");
  const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
  if (file) classify(file); else complain("That was no picture. Try: a JPEG, PNG or WebP file");
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) classify(file); else complain("There is no picture on the clipboard. Try: copy the picture itself, not its address");
});

async function classify(file) {
  const number = ++latest; // an answer that was overtaken is not shown
  complain("");
  document.body.classList.add("busy");
  find("said").textContent = "Looking at the photo";
  try {
    const sent = SENT_AS_IT_IS.includes(file.type) && file.size <= MOST_BYTES ? file : await converted(file);
    await show(sent);
    const began = performance.now();
    const response = await fetch("/invocations?heat_map=true&top=5", {
      method: "POST", body: sent, headers: { "Content-Type": sent.type },
    });
    const answer = await response.json();
    if (number !== latest) return;
    if (!response.ok) throw new Error(answer.detail || answer.title);
    [fileName, fileType] = [file.name || "photo.jpg", sent.type];
    render(answer, performance.now() - began, response.headers.get("Server-Timing") || "", sent.size);
  } catch (error) {
    if (number !== latest) return;
    find("result").hidden = true;
    document.body.classList.remove("has-answer");
    complain(error instanceof TypeError ? "The server does not answer. Try: again in a moment" : error.message);
  } finally {
    if (number === latest) document.body.classList.remove("busy");
  }
}

async function converted(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This browser cannot open the file as a picture. Try: a JPEG, PNG or WebP file");
  }
  const scale = Math.min(1, CONVERTED_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // transparency is laid on white, as the server does
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

function show(file) {
  const photo = find("photo");
  URL.revokeObjectURL(photo.src);
  heat = null;
  draw();
  return new Promise((resolve) => {
    photo.onload = photo.onerror = resolve;
    photo.src = URL.createObjectURL(file);
  });
}

function render(answer, elapsed, timing, bytes) {
  const [first] = answer.predictions;
  find("answer").textContent = first.breed;
  find("breeds").replaceChildren(...answer.predictions.map((one) => {
    const share = percent(one.probability);
    const row = element("div", "row", element("span", "", one.breed), element("span", "", share));
    const bar = document.createElement("i");
    const track = element("div", "track", bar);
    track.setAttribute("aria-hidden", "true");
    requestAnimationFrame(() => { bar.style.width = `${100 * one.probability}%`; });
    return element("li", "", row, track);
  }));
  const parts = Object.fromEntries([...timing.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, value]) => [name, value]));
  find("latency").textContent = `${elapsed.toFixed(0)} ms for ${(bytes / 1000).toFixed(0)} kB`
    + (parts.network ? `: ${parts.decode} ms decoding, ${parts.network} ms in the network` : "");
  heat = answer.heat_map;
  find("heat-breed").textContent = first.breed;
  find("toggle").hidden = find("legend").hidden = !heat;
  find("photo").alt = "The photo that was classified";
  find("model").textContent = `${answer.model.name}, ${answer.model.precision}, version ${answer.model.version}`;
  find("result").hidden = false;
  document.body.classList.add("has-answer");
  find("said").textContent = `Most likely ${first.breed}, ${percent(first.probability)}. `
    + answer.predictions.slice(1).map((one) => `${one.breed} ${percent(one.probability)}`).join(", ");
  draw();
  write();
}

// The map lies over the square that the network saw: the middle, crop_pct of the shorter side.
function draw() {
  const canvas = find("heat"), photo = find("photo");
  canvas.classList.toggle("off", !heat || !find("show-heat").checked);
  if (!heat || !photo.clientWidth) return;
  [canvas.width, canvas.height] = [photo.clientWidth, photo.clientHeight];
  const [rows, columns] = [heat.rows.length, heat.rows[0].length];
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  heat.rows.flat().forEach((value, place) => pixels.data.set(colour(value), 4 * place));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const shown = Math.min(canvas.width / photo.naturalWidth, canvas.height / photo.naturalHeight); // pixels a pixel
  const side = Math.min(photo.naturalWidth, photo.naturalHeight) * heat.crop_pct * shown;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, (canvas.width - side) / 2, (canvas.height - side) / 2, side, side);
}

function colour(value) {
  const place = value * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((from, n) => Math.round(from + (HEAT[low + 1][n] - from) * (place - low)));
}

find("show-heat").addEventListener("change", draw);
new ResizeObserver(draw).observe(find("photo"));

// what to type, for curl and Python
const tabs = [find("tab-curl"), find("tab-python")];
for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = tabs[1 - tabs.indexOf(tab)];
    select(other);
    other.focus();
  });
}

function select(chosen) {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
  find("code").setAttribute("aria-labelledby", chosen.id);
  write();
}

function write() {
  const address = `${location.origin}/invocations`;
  const quoted = `'${fileName.replaceAll("'", "'\\''")}'`;
  const curl = `curl --data-binary @${quoted} -H 'Content-Type: ${fileType}' ${address}`;
  const python = `import json, urllib.request

with open(${JSON.stringify(fileName)}, "rb") as photo:
    request = urllib.request.Request(
        "${address}", photo.read(), {"Content-Type": "${fileType}"}
    )
for found in json.load(urllib.request.urlopen(request))["predictions"]:
    print(f"{found['probability']:6.1%}  {found['breed']}")`;
  find("code").firstElementChild.textContent = tabs[0].getAttribute("aria-selected") === "true" ? curl : python;
}

find("copy").addEventListener("click", async () => {
  const text = find("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    find("copy").textContent = "Copied";
  } catch { // an address without TLS may not: then the text is selected for the person to copy
    getSelection().selectAllChildren(find("code"));
    find("copy").textContent = "Selected";
  }
  setTimeout(() => { find("copy").textContent = "Copy"; }, 2000);
});

function element(tag, name, ...children) {
  const made = document.createElement(tag);
  made.className = name;
  made.append(...children);
  return made;
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function complain(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

write();
fetch("/health").then((response) => response.json()).then(({ model }) => {
  if (model) find("model").textContent = `${model.name}, ${model.precision}, version ${model.version}`;
}).catch(() => {}); // the page says so when a photo is sent
