// Converts a file to a format that the server accepts. Its type is detected from its bytes, not its name.
"use strict";

const TAKEN = ["image/jpeg", "image/png", "image/webp"];
const MOST_PIXELS = 9e6; // the server accepts this many in every format, and more in some
const CONVERTED_PX = [2000, 1400, 1000, 700, 500, 350, 224]; // the longer side: the first that is small enough
const HEIC_BRANDS = ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"];

// Resolves to { photo, converted }: a Blob of a type that the server accepts, of at most mostBytes if possible.
// Rejects with a message for the user if the browser cannot open it.
async function prepared(file, mostBytes) {
  const type = await typeOf(file);
  const asItIs = TAKEN.includes(type) && file.size <= mostBytes;
  const image = await opened(file);
  try {
    const pixels = image.naturalWidth * image.naturalHeight;
    if (asItIs && (!pixels || pixels <= MOST_PIXELS)) { // the server may still decode it, or explain the error
      return { photo: file.slice(0, file.size, type), converted: false };
    }
    if (!pixels) throw new Error(cannotOpen(type, file.name));
    return { photo: await converted(image, mostBytes), converted: true };
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

async function typeOf(file) {
  let bytes;
  try {
    bytes = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  } catch {
    throw new Error("The file cannot be read. Try: a picture file, not a folder");
  }
  const text = String.fromCharCode(...bytes);
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("\x89PNG")) return "image/png";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "image/webp";
  if (text.slice(4, 8) === "ftyp" && HEIC_BRANDS.includes(text.slice(8, 12))) return "image/heic";
  return "";
}

// Uses an image element: its decoder applies the rotation, supports the system's formats (HEIC on Apple's), and saves memory.
function opened(file) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = () => resolve(image);
    image.src = URL.createObjectURL(file);
  });
}

function cannotOpen(type, name) {
  if (type === "image/heic") {
    return "This browser cannot open HEIC photos. Try: save it as JPEG, or open this page in Safari";
  }
  if (TAKEN.includes(type)) return "This browser cannot open the photo, and it is too large to upload. Try: a smaller copy";
  return `${name || "This"} is not a picture that this browser can open. Try: a JPEG, PNG or WebP file`;
}

async function converted(image, mostBytes) {
  let photo = null;
  for (const px of CONVERTED_PX) {
    const scale = Math.min(1, px / Math.max(image.naturalWidth, image.naturalHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // transparency becomes white, as on the server
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
    if (photo && photo.size <= mostBytes) return photo;
  }
  if (!photo) throw new Error("This browser does not have enough memory for this photo. Try: a smaller copy");
  return photo;
}
