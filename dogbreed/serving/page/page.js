// The demo page: sends a photo to the server, and shows the answer as bars and a heat map. No libraries, no other hosts.
"use strict";

const find = (id) => document.getElementById(id);
const MOST_BYTES = 4e6; // the server accepts 6 MiB; proxies in between may accept less
const SURE = 0.5; // the first class is more probable than all others together
const HEAT = [[38, 70, 160, 60], [47, 165, 160, 150], [243, 208, 47, 215], [226, 69, 31, 255]]; // little to much
const ANY = { name: "photo.jpg", type: "image/jpeg" }; // in the examples, if there is no suitable photo
let example = ANY, heat = null, latest = 0, sending = null, mostBytes = MOST_BYTES;

find("pick").addEventListener("click", () => find("file").click());
find("shoot").addEventListener("click", () => find("camera").click());
for (const id of ["file", "camera"]) {
  find(id).addEventListener("change", (event) => {
    if (event.target.files[0]) classify(event.target.files[0]);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}

// accept a drop anywhere: outside the field the browser would leave the page and show the file
let inside = 0;
document.addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; find("drop").classList.add("over"); });
document.addEventListener("dragleave", () => { inside -= 1; if (inside <= 0) find("drop").classList.remove("over"); });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  find("drop").classList.remove("over");
  take(event.dataTransfer, [...event.dataTransfer.types].some((type) => type.startsWith("text/"))
    ? "You dropped a link or text, not the picture itself. Try: save the picture and drop the file, or copy and paste it"
    : "The dropped item is not a picture. Try: a JPEG, PNG or WebP file");
});
document.addEventListener("paste", (event) => {
  take(event.clipboardData, "The clipboard contains no picture. Try: copy the picture itself, not its link");
});

// Files with an unknown extension have no type, but may still be pictures.
function take({ files }, otherwise) {
  const [first] = [...files].sort((one, other) => other.type.startsWith("image/") - one.type.startsWith("image/"));
  if (first) classify(first); else complain(otherwise);
}

async function classify(file) {
  const number = ++latest; // an outdated answer is not shown
  if (sending) sending.abort();
  complain("");
  document.body.classList.add("busy");
  report("Opening the photo");
  try {
    const { photo, converted } = await prepared(file, mostBytes);
    await show(photo);
    if (number !== latest) return;
    const began = performance.now();
    const { answer, timing } = await sent(photo);
    if (number !== latest) return;
    example = converted || !file.name ? ANY : { name: file.name, type: photo.type };
    render(answer, performance.now() - began, timing, photo.size);
  } catch (error) {
    if (number !== latest) return;
    find("result").hidden = true;
    document.body.classList.remove("has-answer");
    example = ANY;
    write();
    complain(error.message);
  } finally {
    if (number === latest) {
      document.body.classList.remove("busy");
      find("progress").hidden = true;
    }
  }
}

// Resolves to the server's answer; unlike fetch, XMLHttpRequest reports upload progress.
function sent(photo) {
  return new Promise((resolve, reject) => {
    const request = sending = new XMLHttpRequest();
    request.open("POST", "invocations?heat_map=true&top=5");
    request.setRequestHeader("Content-Type", photo.type);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => {
      if (loaded < total) report("Uploading the photo", loaded / total); else report("Classifying the photo");
    };
    request.upload.onload = () => report("Classifying the photo");
    request.onerror = () => reject(new Error("The server does not respond. Try: again in a moment"));
    request.onload = () => {
      const answer = request.response;
      if (request.status === 200 && answer) {
        resolve({ answer, timing: request.getResponseHeader("Server-Timing") || "" });
      } else {
        reject(new Error((answer && (answer.detail || answer.title))
          || `The request failed with status ${request.status}, perhaps from a proxy. Try: a smaller photo, or reload the page`));
      }
    };
    report("Uploading the photo", 0);
    request.send(photo);
  });
}

// Shows progress as a bar; screen readers announce each step once.
function report(doing, share) {
  find("progress").hidden = false;
  find("doing").textContent = share === undefined ? doing : `${doing}: ${Math.round(100 * share)} %`;
  if (share === undefined) find("sent").removeAttribute("value"); else find("sent").value = share;
  if (find("said").textContent !== doing) find("said").textContent = doing;
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
  const sure = first.probability >= SURE, unlike = answer.unlike_training_photos === true;
  find("unlike").hidden = !unlike;
  find("kind").textContent = sure ? "Most likely" : "Most likely, but not certain";
  find("answer").textContent = first.breed;
  find("breeds").replaceChildren(...answer.predictions.map((one) => {
    const share = percent(one.probability);
    const row = element("div", "row", element("span", "", one.breed), element("span", "", share));
    row.title = one.label || ""; // the folder's name, which may be longer
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
  find("said").textContent = `${unlike ? `${find("unlike").textContent} ` : ""}Most likely ${first.breed}, ${percent(first.probability)}${sure ? "" : ", not certain"}. `
    + answer.predictions.slice(1).map((one) => `${one.breed} ${percent(one.probability)}`).join(", ");
  draw();
  write();
  const { top, bottom } = find("answer").parentNode.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) find("result").scrollIntoView({ block: "start" }); // on a phone it is below the fold
}

// The map covers the square that the network saw: the center, crop_pct of the shorter side.
function draw() {
  const canvas = find("heat"), photo = find("photo");
  canvas.classList.toggle("off", !heat || !find("show-heat").checked);
  if (!heat || !photo.clientWidth) return;
  [canvas.width, canvas.height] = [photo.clientWidth, photo.clientHeight];
  const [rows, columns] = [heat.rows.length, heat.rows[0].length];
  const small = document.createElement("canvas"); // not OffscreenCanvas: Safari before 16.4 has none
  [small.width, small.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  heat.rows.flat().forEach((value, place) => pixels.data.set(colour(value), 4 * place));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const shown = Math.min(canvas.width / photo.naturalWidth, canvas.height / photo.naturalHeight); // screen pixels per photo pixel
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

// the examples for curl and Python
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
  const address = new URL("invocations", location.href);
  const quoted = `'${example.name.replaceAll("'", "'\\''")}'`;
  const curl = `curl --data-binary @${quoted} -H 'Content-Type: ${example.type}' ${address}`;
  const python = `import json, urllib.request

with open(${JSON.stringify(example.name)}, "rb") as photo:
    request = urllib.request.Request(
        "${address}", photo.read(), {"Content-Type": "${example.type}"}
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
  } catch { // not allowed without TLS: select the text instead, for the user to copy
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
fetch("health").then((response) => response.json()).then(({ model, classes, max_body_bytes }) => {
  mostBytes = Math.min(MOST_BYTES, max_body_bytes || MOST_BYTES);
  if (!model) return;
  find("model").textContent = `${model.name}, ${model.precision}, version ${model.version}`;
  const unjudged = model.unlike && model.unlike !== "on"
    ? " It is not judged here whether a photo is unlike the training photos." : "";
  find("only").textContent = find("only").textContent.replace("its own classes", `its ${classes} classes`) + unjudged;
}).catch(() => {}); // the error is shown when a photo is sent
