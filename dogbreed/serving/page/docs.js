// Behind a proxy the server may not know its own address; the browser does.
"use strict";

const shown = document.documentElement.dataset.address, here = new URL(".", location.href).href.replace(/\/$/, "");
for (const code of document.querySelectorAll("pre code")) code.textContent = code.textContent.replaceAll(shown, here);
